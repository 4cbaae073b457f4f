//! The responses of `GET /v1/models` and `GET /v1/models/{id}`.

use serde::Serialize;

/// One model: `{"object": "model", "id", "created", "owned_by", "task"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "object", rename = "model")]
pub struct ModelObject {
    /// The name that a request gives as `model`.
    pub id: String,
    /// Seconds since the Unix epoch. `u32`, as in async-openai; it lasts until 2106.
    pub created: u32,
    /// The organisation that the model comes from.
    pub owned_by: String,
    /// An extension: the kind of result that the model computes.
    pub task: &'static str,
}

/// All models: `{"object": "list", "data": [...]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "object", rename = "list")]
pub struct ModelList {
    /// The models, in the order in which they are listed.
    pub data: Vec<ModelObject>,
}
