//! Digests of files, as a hub states them in the header `etag`.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The name of a blob in the cache, and the digest that it stands for, if it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlobId {
    name: String,
    kind: BlobKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BlobKind {
    /// SHA-1 over Git's header and the content.
    GitSha1,
    /// SHA-256 over the content.
    Sha256,
    /// No digest is known.
    Opaque,
}

impl BlobId {
    /// Reads an `etag`, with or without quotes. `None` if it is no digest.
    pub(crate) fn from_etag(etag: &str) -> Option<Self> {
        let name = etag.trim().trim_matches('"');
        let is_hex = name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let kind = match name.len() {
            40 if is_hex => BlobKind::GitSha1,
            64 if is_hex => BlobKind::Sha256,
            _ => return None,
        };
        Some(Self { name: name.to_ascii_lowercase(), kind })
    }

    /// Returns the id of a file of a commit whose tag is no digest. Tags such as a length and a time do not differ for
    /// all files of a model, so the name is made from the place of the file instead.
    pub(crate) fn without_digest(commit: &str, file: &str) -> Self {
        let place = hex(Sha256::new_with_prefix(file));
        Self { name: format!("{commit}-{}", &place[..16]), kind: BlobKind::Opaque }
    }

    /// Returns the blob's file name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns true if the name is a digest of the content.
    pub(crate) fn is_digest(&self) -> bool {
        self.kind != BlobKind::Opaque
    }

    /// Returns true if the name is a SHA-256.
    pub(crate) fn is_sha256(&self) -> bool {
        self.kind == BlobKind::Sha256
    }

    /// Computes the digest of a file, in hexadecimal; `None` for a tag that is no digest.
    pub(crate) fn digest_of(&self, path: &Path) -> io::Result<Option<String>> {
        let mut file = File::open(path)?;
        match self.kind {
            BlobKind::Sha256 => digest(Sha256::new(), &mut file).map(Some),
            BlobKind::GitSha1 => {
                let bytes = file.metadata()?.len();
                digest(Sha1::new_with_prefix(format!("blob {bytes}\0")), &mut file).map(Some)
            }
            BlobKind::Opaque => Ok(None),
        }
    }
}

/// Hashes the rest of `content`.
fn digest<D: Digest>(mut hash: D, content: &mut impl Read) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match content.read(&mut buffer)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    Ok(hex(hash))
}

fn hex(hash: impl Digest) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_named_after_gits_sha1_or_sha256() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        // `git hash-object`, and the example of FIPS 180-4.
        for digest in [
            "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ] {
            let blob = BlobId::from_etag(&format!("\"{digest}\"")).unwrap();
            assert_eq!((blob.name(), blob.is_digest()), (digest, true));
            assert_eq!(blob.digest_of(&path).unwrap().as_deref(), Some(digest));
        }
        let opaque = BlobId::without_digest(&"0".repeat(40), "abc");
        assert_eq!((opaque.is_digest(), opaque.digest_of(&path).unwrap()), (false, None));
        assert_ne!(opaque, BlobId::without_digest(&"0".repeat(40), "abd"));
    }

    #[test]
    fn a_tag_that_is_no_digest_is_none() {
        for etag in ["", "\"\"", "W/\"5-abc\"", "../x", "f2ba8f84", &"g".repeat(40)] {
            assert_eq!(BlobId::from_etag(etag), None, "{etag:?}");
        }
    }
}
