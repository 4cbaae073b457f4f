//! Request and response of `POST /v1/embeddings`.

use std::{fmt, io::Write as _, str};

use serde::{
    Serialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::{
    error::RequestError,
    extra::ExtraValue,
    input::EmbeddingInput,
    lenient::{Lenient, skip_array},
    quantization::{quantize_binary, quantize_int8, quantize_ubinary, quantize_uint8},
    surrogates::replace_lone_surrogates,
    vector::{self, Vectors},
};

/// The encoding of the vectors in a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EncodingFormat {
    /// `"float"`: JSON arrays of numbers.
    #[default]
    Float,
    /// `"base64"`: JSON strings with the base64 of little-endian f32, which OpenAI's SDKs request. 5.3 characters per
    /// component, where numbers take about 12.
    Base64,
    /// JSON arrays of integers from -128 to 127. Not in OpenAI's API, as the formats below.
    Int8,
    /// JSON arrays of integers from 0 to 255.
    Uint8,
    /// JSON arrays of integers from -128 to 127, each of eight signs of components.
    Binary,
    /// JSON arrays of integers from 0 to 255, each of eight signs of components.
    Ubinary,
}

/// A request with valid fields.
///
/// `user` and unknown fields are ignored: OpenAI's schema forbids the latter, but clients send them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingRequest {
    /// The model's name, not empty.
    pub model: String,
    /// The texts or token ids to embed.
    pub input: EmbeddingInput,
    /// The name of the field that held them.
    pub input_name: &'static str,
    /// The format of the vectors; absent means [`EncodingFormat::Float`].
    pub encoding_format: Option<EncodingFormat>,
    /// The requested length of the vectors, at least 1.
    pub dimensions: Option<u32>,
    /// Parameters outside OpenAI's API that the caller chose to keep, each name once.
    pub extra: Vec<(&'static str, ExtraValue)>,
}

impl EmbeddingRequest {
    /// Parses the body of a request, which may start with a UTF-8 byte order mark.
    ///
    /// A field that is `null` counts as absent. The last of several equal keys counts, as in most parsers. A lone
    /// surrogate in a string becomes U+FFFD.
    ///
    /// # Errors
    /// The first error in this order: syntax, `model`, `input`, `encoding_format`, `dimensions`. A number out of the
    /// range of `f64` is a syntax error, except in an ignored field.
    pub fn from_json(body: &[u8]) -> Result<Self, RequestError> {
        Self::from_json_in(body, RequestFormat::openai(|_| None))
    }

    /// Parses the body of a request as [`from_json`](Self::from_json) does, in another `format`.
    ///
    /// # Errors
    /// Those of [`from_json`](Self::from_json).
    pub fn from_json_in(body: &[u8], format: RequestFormat) -> Result<Self, RequestError> {
        // The encoders of .NET and PowerShell write a byte order mark by default.
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let json = str::from_utf8(body).map_err(|error| not_utf8(body, error.valid_up_to()))?;
        let RequestFormat { input: input_name, model: model_source, extra_name } = format;
        let fields = read(&replace_lone_surrogates(json), FieldsSeed { input_name, extra_name })
            .map_err(|error| malformed(&error))?;
        let Fields { model, input, encoding_format, dimensions, extra } =
            fields.ok_or(RequestError::NotAnObject)?;

        let model = match model_source {
            ModelField::Ignored(model) => model,
            ModelField::Optional(default) => require_type(model, "model")?.unwrap_or(default),
            ModelField::Required => require_type(model, "model")?
                .filter(|model| !model.is_empty())
                .ok_or(RequestError::MissingModel)?,
        };
        let input =
            require_type(input, input_name)?.ok_or(RequestError::MissingInput { name: input_name })?;
        input.check_not_empty(input_name)?;
        let encoding_format = require_type(encoding_format, "encoding_format")?
            .map(|name| match name.as_str() {
                "float" => Ok(EncodingFormat::Float),
                "base64" => Ok(EncodingFormat::Base64),
                _ => Err(RequestError::UnsupportedEncodingFormat { value: name }),
            })
            .transpose()?;
        let dimensions = require_type(dimensions, "dimensions")?
            .map(|value| match u32::try_from(value) {
                Ok(dimensions @ 1..) => Ok(dimensions),
                _ => Err(RequestError::BadDimensions { value }),
            })
            .transpose()?;
        Ok(Self { model, input, input_name, encoding_format, dimensions, extra })
    }
}

/// The format of a request: OpenAI's, or that of an API with other names for the same fields.
#[derive(Debug, Clone)]
pub struct RequestFormat {
    /// The name of the field with the inputs.
    pub input: &'static str,
    /// The field that names the model.
    pub model: ModelField,
    /// Returns the name under which the value of a further field is kept, or `None` to ignore the field.
    pub extra_name: fn(&str) -> Option<&'static str>,
}

/// The field `model`, which names the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelField {
    /// It is required.
    Required,
    /// Without it, the name is this one.
    Optional(String),
    /// It is ignored: the name is this one, whatever the body says.
    Ignored(String),
}

impl RequestFormat {
    /// OpenAI's format, with the further fields for which `extra_name` returns a name.
    pub fn openai(extra_name: fn(&str) -> Option<&'static str>) -> Self {
        Self { input: "input", model: ModelField::Required, extra_name }
    }
}

/// Parses `json` to its end.
fn read(json: &str, seed: FieldsSeed) -> Result<Option<Fields>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let fields = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(fields)
}

/// The fields of a body before validation: absent, of the wrong type, or present.
#[derive(Default)]
struct Fields {
    model: Option<Lenient<String>>,
    input: Option<Lenient<EmbeddingInput>>,
    encoding_format: Option<Lenient<String>>,
    dimensions: Option<Lenient<i128>>,
    extra: Vec<(&'static str, ExtraValue)>,
}

/// Deserializes a body to [`Fields`], or to `None` if it is JSON but not an object.
#[derive(Clone, Copy)]
struct FieldsSeed {
    input_name: &'static str,
    extra_name: fn(&str) -> Option<&'static str>,
}

impl<'de> DeserializeSeed<'de> for FieldsSeed {
    type Value = Option<Fields>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldsSeed {
    type Value = Option<Fields>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<Self::Value, A::Error> {
        skip_array(array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = object.next_key_seed(KeySeed(self))? {
            match key {
                Key::Model => fields.model = object.next_value()?,
                Key::Input => fields.input = object.next_value()?,
                Key::EncodingFormat => fields.encoding_format = object.next_value()?,
                Key::Dimensions => fields.dimensions = object.next_value()?,
                Key::Extra(name) => {
                    let value = object.next_value()?;
                    fields.extra.retain(|(known, _)| *known != name);
                    fields.extra.push((name, value));
                }
                Key::Ignored => drop(object.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Some(fields))
    }
}

enum Key {
    Model,
    Input,
    EncodingFormat,
    Dimensions,
    Extra(&'static str),
    Ignored,
}

struct KeySeed(FieldsSeed);

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(match key {
            key if key == self.0.input_name => Key::Input,
            "model" => Key::Model,
            "encoding_format" => Key::EncodingFormat,
            "dimensions" => Key::Dimensions,
            key => (self.0.extra_name)(key).map_or(Key::Ignored, Key::Extra),
        })
    }
}

fn require_type<T>(field: Option<Lenient<T>>, param: &'static str) -> Result<Option<T>, RequestError> {
    field.map(|Lenient(value)| value.ok_or(RequestError::WrongType { param })).transpose()
}

/// Converts an error of `serde_json`, whose message ends with the position. [`RequestError`] has fields for it.
fn malformed(error: &serde_json::Error) -> RequestError {
    let (line, column) = (error.line(), error.column());
    let message = error.to_string();
    let reason = message.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&message);
    RequestError::MalformedJson { line, column, reason: reason.to_owned() }
}

fn not_utf8(body: &[u8], at: usize) -> RequestError {
    let before = &body[..at];
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    RequestError::MalformedJson {
        line: 1 + before.iter().filter(|&&byte| byte == b'\n').count(),
        column: 1 + at - line_start,
        reason: "invalid UTF-8".to_owned(),
    }
}

/// The number of tokens of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The tokens of all inputs.
    pub prompt_tokens: u64,
    /// The same number: embeddings generate no tokens.
    pub total_tokens: u64,
}

/// The response to a request.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingResponse {
    /// The model's name as in the request.
    pub model: String,
    /// One vector per input, in the order of the inputs.
    pub vectors: Vectors,
    /// The requested format. Clients do not check it and misread the other one.
    pub format: EncodingFormat,
    /// The tokens of the request.
    pub usage: Usage,
}

/// Writing to memory cannot fail.
const IN_MEMORY: &str = "writing to memory cannot fail";

impl EmbeddingResponse {
    /// Appends the response to `out` as JSON without whitespace.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.reserve(
            self.format.estimated_len(self.vectors.len(), self.vectors.dimensions()) + self.model.len(),
        );
        self.write_part(0, usize::MAX, out);
    }

    /// Appends the part of the JSON that starts at vector `from`: whole vectors, until at least `bytes` bytes have been
    /// appended. Returns the first vector of the next part, or `None` after the last part. The concatenated parts from
    /// vector 0 on equal the output of [`EmbeddingResponse::write_json`].
    ///
    /// # Panics
    /// If `from` exceeds the number of vectors.
    pub fn write_part(&self, from: usize, bytes: usize, out: &mut Vec<u8>) -> Option<usize> {
        let start = out.len();
        if from == 0 {
            out.extend_from_slice(br#"{"object":"list","data":["#);
        }
        for (index, vector) in self.vectors.rows_from(from) {
            if index > from && out.len() - start >= bytes {
                return Some(index);
            }
            if index > 0 {
                out.push(b',');
            }
            write!(out, r#"{{"object":"embedding","index":{index},"embedding":"#).expect(IN_MEMORY);
            self.format.write(vector, out);
            out.push(b'}');
        }
        out.extend_from_slice(br#"],"model":"#);
        serde_json::to_writer(&mut *out, &self.model).expect(IN_MEMORY);
        out.extend_from_slice(br#","usage":"#);
        serde_json::to_writer(&mut *out, &self.usage).expect(IN_MEMORY);
        out.push(b'}');
        None
    }

    /// Returns the length of the JSON in bytes if it is known without writing it: base64 has a fixed length, numbers do
    /// not.
    pub fn json_len(&self) -> Option<u64> {
        const ITEM_BYTES: usize = r#"{"object":"embedding","index":,"embedding":""}"#.len();
        match self.format {
            EncodingFormat::Base64 => {
                let mut envelope = Vec::new();
                let empty = Self { model: self.model.clone(), vectors: Vectors::default(), ..*self };
                empty.write_part(0, usize::MAX, &mut envelope);
                let count = self.vectors.len();
                let digits: usize =
                    (0..count).map(|index| index.checked_ilog10().unwrap_or(0) as usize + 1).sum();
                let vectors = count * (ITEM_BYTES + vector::base64_len(self.vectors.dimensions()));
                Some((envelope.len() + vectors + digits + count.saturating_sub(1)) as u64)
            }
            _ => None,
        }
    }
}

fn write_integers<T: Serialize>(integers: Vec<T>, out: &mut Vec<u8>) {
    serde_json::to_writer(out, &integers).expect(IN_MEMORY);
}

impl EncodingFormat {
    /// Appends `vector` to `out` as JSON, integers as by [`quantize_int8`](crate::quantize_int8) and its like.
    pub fn write(self, vector: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::Float => vector::write_floats(vector, out),
            Self::Base64 => vector::write_base64(vector, out),
            Self::Int8 => write_integers(quantize_int8(vector), out),
            Self::Uint8 => write_integers(quantize_uint8(vector), out),
            Self::Binary => write_integers(quantize_binary(vector), out),
            Self::Ubinary => write_integers(quantize_ubinary(vector), out),
        }
    }

    /// Returns true for integers, which are made of a vector's components.
    pub fn is_quantized(self) -> bool {
        !matches!(self, Self::Float | Self::Base64)
    }

    /// Returns the name of the format in parameters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Base64 => "base64",
            Self::Int8 => "int8",
            Self::Uint8 => "uint8",
            Self::Binary => "binary",
            Self::Ubinary => "ubinary",
        }
    }

    /// Estimates the length in bytes of a response with `vectors` vectors, without the model's name. For base64 it is
    /// an upper bound, unless the name consists of escapes; for numbers a little above the mean, so that a buffer
    /// rarely grows.
    pub fn estimated_len(self, vectors: usize, dimensions: usize) -> usize {
        /// The response without `data` and the model's name, with room for 20-digit counts.
        const ENVELOPE_BYTES: usize = 128;
        /// An element of `data` without its vector, with room for a 10-digit index.
        const ITEM_BYTES: usize = 64;
        /// A component, comma included. The mean for unit vectors of 384 dimensions is 12.3.
        const NUMBER_BYTES: usize = 13;
        /// An integer of 8 bits, sign and comma included: the longest.
        const INTEGER_BYTES: usize = 5;

        let vector = match self {
            Self::Float => dimensions * NUMBER_BYTES,
            Self::Base64 => vector::base64_len(dimensions),
            Self::Int8 | Self::Uint8 => dimensions * INTEGER_BYTES,
            Self::Binary | Self::Ubinary => dimensions.div_ceil(8) * INTEGER_BYTES,
        };
        ENVELOPE_BYTES + vectors * (ITEM_BYTES + vector)
    }
}
