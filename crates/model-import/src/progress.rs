//! Progress reports of an import.

/// The progress of an import within one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    /// The current stage.
    pub stage: ImportStage,
    /// Bytes processed so far.
    pub done: u64,
    /// Bytes of the whole stage.
    pub total: u64,
}

/// The stages of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportStage {
    /// Reading the model's files to compute their digest.
    Checking,
    /// Writing the graph's weights.
    Writing,
}
