//! Disentangled attention: scores of contents with relative positions.

use encoder_spec::{Disentangled, LinearId, NormId, Part, TensorId};

use super::{Exporter, bias_of, module};
use crate::{ImportError, family::Network, onnx::AttributeProto, weights::Weights};

/// Values that all layers use.
#[derive(Default)]
pub(super) struct RelativePositions {
    /// The normalized table: `[rows, hidden]`.
    table: Option<Vec<f32>>,
    /// Name of the row of each pair of a query and a key, in the shape of the scores.
    rows: Option<String>,
}

impl Exporter<'_, '_> {
    /// Adds the products of queries `[batch, heads, sequence, head_dim]` and keys `[batch, heads, head_dim, sequence]`
    /// with projections of relative positions to the scores `[batch, heads, sequence, sequence]`.
    pub(super) fn add_disentangled(
        &mut self,
        layer: usize,
        scores: &str,
        [query, key]: [&str; 2],
        spec: Disentangled,
    ) -> Result<String, ImportError> {
        let scale = self.network.spec.attention.scale;
        let mut sum = scores.to_owned();
        for (is_added, content, linear, factor, axis) in [
            (spec.content_to_position, query, LinearId::Key, 1.0, 3),
            (spec.position_to_content, key, LinearId::Query, scale, 2),
        ] {
            if !is_added {
                continue;
            }
            let positions = self.projected_positions(layer, linear, factor, spec)?;
            // Products with all rows of the table, from which that of each pair is taken: axis 3 holds the rows for
            // queries, axis 2 for keys.
            let operands = if axis == 3 { [content, &positions] } else { [&positions, content] };
            let products = self.graph.op("MatMul", &operands, vec![]);
            let rows = self.relative_rows(scores, spec);
            let attributes = vec![AttributeProto::int("axis", axis)];
            let term = self.graph.op("GatherElements", &[&products, &rows], attributes);
            sum = self.graph.op("Add", &[&sum, &term], vec![]);
        }
        Ok(sum)
    }

    /// Returns the row of the table of relative positions for each pair of a query and a key, in the shape of `scores`.
    fn relative_rows(&mut self, scores: &str, spec: Disentangled) -> String {
        if let Some(rows) = &self.relative_positions.rows {
            return rows.clone();
        }
        // The specification counts from the key to the query.
        let rows: Vec<i64> = self.positions.all_offsets().map(|offset| spec.row(-offset) as i64).collect();
        let table = self.graph.integers("relative_rows", &rows);
        let indices = self.positions.offset_indices(self.graph);
        let rows = self.graph.op("Gather", &[&table, &indices], vec![]);
        let shape = self.graph.op("Shape", &[scores], vec![]);
        let rows = self.graph.op("Expand", &[&rows, &shape], vec![]);
        self.relative_positions.rows.insert(rows).clone()
    }

    /// Adds the table of relative positions, projected by a linear layer: `[heads, head_dim, rows]` for the key's, and
    /// `[heads, rows, head_dim]` for the query's.
    fn projected_positions(
        &mut self,
        layer: usize,
        linear: LinearId,
        factor: f32,
        spec: Disentangled,
    ) -> Result<String, ImportError> {
        let Self { network, weights, .. } = *self;
        let (hidden, attention) = (network.spec.hidden, &network.spec.attention);
        let (heads, head_dim, rows) = (attention.heads, attention.head_dim, 2 * spec.span);
        let weight = TensorId::Linear(layer, linear, Part::Weight);
        let name = format!("{}.positions", module(network.locate(weight)));
        let is_key = linear == LinearId::Key;
        let shape = if is_key { [heads, head_dim, rows] } else { [heads, rows, head_dim] };
        let table = match &mut self.relative_positions.table {
            Some(table) => table,
            none => none.insert(normalized_table(network, weights)?),
        };
        self.graph.weight_from(&name, &shape, |sink| {
            let (weight, bias) = (network.read(weights, weight)?, network.read(weights, bias_of(weight))?);
            let mut projected = vec![0.0; heads * head_dim * rows];
            for (row, position) in table.chunks_exact(hidden).enumerate() {
                for (output, (weight, bias)) in weight.chunks_exact(hidden).zip(&*bias).enumerate() {
                    let value = (dot(position, weight) + bias) * factor;
                    let (head, dimension) = (output / head_dim, output % head_dim);
                    let index = match is_key {
                        true => (head * head_dim + dimension) * rows + row,
                        false => (head * rows + row) * head_dim + dimension,
                    };
                    projected[index] = value;
                }
            }
            sink(&projected)
        })
    }
}

/// Returns the table of relative positions, normalized if the network does so.
fn normalized_table(network: &Network, weights: &Weights) -> Result<Vec<f32>, ImportError> {
    let mut table = network.read(weights, TensorId::RelativePositions)?.into_owned();
    let norm = NormId::RelativePositions;
    if network.spec.has_norm(norm) {
        let scale = network.read(weights, TensorId::Scale(norm))?;
        let shift = network.read(weights, TensorId::Shift(norm))?;
        for row in table.chunks_exact_mut(network.spec.hidden) {
            let count = row.len() as f64;
            let mean = row.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
            let variance = row.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count;
            let deviation = (variance + f64::from(network.spec.norm.epsilon)).sqrt();
            for ((value, scale), shift) in row.iter_mut().zip(&*scale).zip(&*shift) {
                let normalized = (f64::from(*value) - mean) / deviation;
                *value = (normalized * f64::from(*scale) + f64::from(*shift)) as f32;
            }
        }
    }
    Ok(table)
}

/// Returns the inner product, with partial sums that the compiler vectorizes.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}
