# Downloads the model's archive, verifies its SHA-256 and unpacks it into MODEL_DIR. An archive with another digest is
# never unpacked. A restarted container starts from an empty folder.
archive=$MODEL_DIR.tar
rm -rf "$MODEL_DIR" "$archive"
curl --fail --silent --show-error --location --retry 5 --connect-timeout 20 --output "$archive" "$MODEL_URL"
echo "$MODEL_SHA256  $archive" | sha256sum -c -
mkdir "$MODEL_DIR"
tar -xf "$archive" -C "$MODEL_DIR" --strip-components="$STRIP_COMPONENTS"
rm "$archive"
test -s "$MODEL_DIR/tokenizer.json" || { echo "no tokenizer.json in $MODEL_DIR: see model.download.stripComponents" >&2; exit 1; }
