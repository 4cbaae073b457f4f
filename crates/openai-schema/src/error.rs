//! Errors in a request body, and the envelope in which a client receives them.

use serde::Serialize;

/// Maximum number of characters of a client's value that an error message repeats.
const MAX_ECHO_CHARS: usize = 64;

/// An error in the body of an embedding request.
///
/// `Display` is the message for the client, in OpenAI's words if OpenAI's response is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The body is not JSON, or not UTF-8. `line` and `column` count from 1, columns in bytes. If the body
    /// ends at the start of a line, the column is 0.
    #[error(
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't using \
         your HTTP library correctly. The OpenAI API expects a JSON payload, but what was sent was \
         not valid JSON.) ({reason} at line {line} column {column})"
    )]
    MalformedJson {
        /// The line of the first error.
        line: usize,
        /// The column of the first error, in bytes.
        column: usize,
        /// The reason. It never contains text of the body.
        reason: String,
    },
    /// The body is JSON, but not an object.
    #[error(
        "'$' is invalid: the body must be a JSON object. \
         Please check the API reference: https://platform.openai.com/docs/api-reference."
    )]
    NotAnObject,
    /// `model` is absent, `null` or empty.
    #[error("you must provide a model parameter")]
    MissingModel,
    /// The field with the inputs is absent or `null`.
    #[error("Missing required parameter: '{name}'.")]
    MissingInput {
        /// The name of the field.
        name: &'static str,
    },
    /// A field, or an element of it, has a type that the field does not accept.
    #[error(
        "'$.{param}' is invalid. \
         Please check the API reference: https://platform.openai.com/docs/api-reference."
    )]
    WrongType {
        /// The name of the field.
        param: &'static str,
    },
    /// The field with the inputs is `[]`.
    #[error("Invalid '{name}': input cannot be an empty array.")]
    EmptyArray {
        /// The name of the field.
        name: &'static str,
    },
    /// An element of the inputs is `""` or `[]`.
    #[error("Invalid '{name}[{index}]': input cannot be an empty string.")]
    EmptyInput {
        /// The name of the field.
        name: &'static str,
        /// The position of the element, from 0.
        index: usize,
    },
    /// `encoding_format` is not a known format.
    #[error(
        "Invalid value for 'encoding_format' = {}. Supported values: ['float', 'base64'].",
        shortened(.value)
    )]
    UnsupportedEncodingFormat {
        /// The requested value.
        value: String,
    },
    /// `dimensions` is an integer, but below 1 or above `u32::MAX`.
    #[error("Invalid value for 'dimensions' = {value}. {}", dimensions_bound(*.value))]
    BadDimensions {
        /// The requested value.
        value: i128,
    },
}

impl RequestError {
    /// Returns the `param` of the error envelope. OpenAI sets it only for a missing `input`.
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::MissingInput { name } => Some(name),
            _ => None,
        }
    }

    /// Returns the message for the clients of another vendor's API, which does not refer to OpenAI's.
    pub fn neutral_message(&self) -> String {
        match self {
            Self::MalformedJson { line, column, reason } => {
                format!("The body is not valid JSON: {reason} at line {line} column {column}.")
            }
            Self::NotAnObject => "The body must be a JSON object.".to_owned(),
            Self::WrongType { param } => format!("Invalid type for '{param}', or for an element of it."),
            Self::MissingModel => "Missing required parameter: 'model'.".to_owned(),
            _ => self.to_string(),
        }
    }

    /// Returns the `code` of the error envelope. OpenAI sets it only for a missing `input`.
    pub fn code(&self) -> Option<&'static str> {
        matches!(self, Self::MissingInput { .. }).then_some("missing_required_parameter")
    }
}

/// Returns the start of `value`. A client must not control the length of the response or of a log line.
fn shortened(value: &str) -> String {
    let mut chars = value.chars();
    let mut short: String = chars.by_ref().take(MAX_ECHO_CHARS).collect();
    if chars.next().is_some() {
        short.push('…');
    }
    short
}

fn dimensions_bound(value: i128) -> String {
    if value < 1 {
        "Must be greater than or equal to 1.".to_owned()
    } else {
        format!("Must be less than or equal to {}.", u32::MAX)
    }
}

/// The envelope of every error: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorBody<'a> {
    /// The content.
    pub error: ErrorDetail<'a>,
}

/// The content of an [`ErrorBody`]. All four keys are always written, absent values as `null`, because clients read
/// them without checking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorDetail<'a> {
    /// The message for a person.
    pub message: &'a str,
    /// The class of the error, for example `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The field of the request that holds the error.
    pub param: Option<&'a str>,
    /// The exact cause, for a program.
    pub code: Option<&'a str>,
}

impl<'a> ErrorBody<'a> {
    /// Creates an envelope with these four values; `kind` is written as `type`.
    pub fn new(message: &'a str, kind: &'a str, param: Option<&'a str>, code: Option<&'a str>) -> Self {
        Self { error: ErrorDetail { message, kind, param, code } }
    }
}
