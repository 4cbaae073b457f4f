//! Self-attention of a layer.

use encoder_spec::{LayerNormId, LinearId, NormId, Part, ScoreBias, TensorId};

use super::Exporter;
use crate::{ImportError, onnx::AttributeProto};

impl Exporter<'_, '_> {
    /// Adds the self-attention of a layer, without the residual connection. Input and output are
    /// `[batch, sequence, hidden]`.
    pub(super) fn attention(&mut self, layer: usize, input: &str) -> Result<String, ImportError> {
        let network = self.network;
        let attention = &network.spec.attention;
        let (heads, kv_heads) = (attention.heads, attention.kv_heads);
        // A norm of the query would undo a factor before it.
        let (scale, norm_scale) =
            if attention.has_query_key_norm { (1.0, attention.scale) } else { (attention.scale, 1.0) };
        let parts = [(LinearId::Query, scale), (LinearId::Key, 1.0), (LinearId::Value, 1.0)]
            .map(|(linear, factor)| (TensorId::Linear(layer, linear, Part::Weight), factor));
        let qkv = self.product(input, &parts)?;
        let mut attributes = vec![AttributeProto::int("axis", -1)];
        let [query, key, value] = if heads == kv_heads {
            attributes.push(AttributeProto::int("num_outputs", 3));
            self.graph.ops("Split", &[&qkv], attributes)
        } else {
            let (query, kv) = (attention.query_width() as i64, attention.kv_width() as i64);
            let widths = self.graph.integers("qkv_widths", &[query, kv, kv]);
            self.graph.ops("Split", &[&qkv, &widths], attributes)
        };
        // In the shape of a Reshape, 0 keeps a dimension, and −1 stands for the rest.
        let head_dim = attention.head_dim as i64;
        let split_heads = self.graph.integers("heads_apart", &[0, 0, heads as i64, head_dim]);
        let merge_heads = self.graph.integers("heads_together", &[0, 0, heads as i64 * head_dim]);
        let split_kv_heads = match heads == kv_heads {
            true => split_heads.clone(),
            false => self.graph.integers("kv_heads_apart", &[0, 0, kv_heads as i64, head_dim]),
        };
        let query_norm = Some((NormId::Layer(layer, LayerNormId::Query), norm_scale));
        let key_norm = Some((NormId::Layer(layer, LayerNormId::Key), 1.0));
        let query = self.by_head(layer, &query, &split_heads, query_norm)?;
        let query = self.transpose(&query, &[0, 2, 1, 3]);
        let key = self.by_head(layer, &key, &split_kv_heads, key_norm)?;
        let key = self.transpose(&key, &[0, 2, 3, 1]);
        let value = self.by_head(layer, &value, &split_kv_heads, None)?;
        let value = self.transpose(&value, &[0, 2, 1, 3]);

        // The query heads of a group follow one another, so that their queries form one matrix.
        let grouped = (heads != kv_heads).then(|| {
            let graph = &mut *self.graph;
            let by_group = graph.integers("grouped", &[0, kv_heads as i64, -1, 0]);
            (by_group, graph.integers("ungrouped", &[0, heads as i64, -1, 0]))
        });
        let mut scores = match &grouped {
            None => self.graph.op("MatMul", &[&query, &key], vec![]),
            Some((by_group, by_head)) => {
                let queries = self.graph.op("Reshape", &[&query, by_group], vec![]);
                let scores = self.graph.op("MatMul", &[&queries, &key], vec![]);
                self.graph.op("Reshape", &[&scores, by_head], vec![])
            }
        };
        if let ScoreBias::Disentangled(spec) = attention.score_bias {
            scores = self.add_disentangled(layer, &scores, [&query, &key], spec)?;
        }
        let span = network.spec.layers[layer].span;
        let bias = self.positions.score_bias(self.graph, network, self.weights, span)?;
        let graph = &mut *self.graph;
        let scores = graph.op("Add", &[&scores, &bias], vec![]);
        let weights = graph.op("Softmax", &[&scores], vec![AttributeProto::int("axis", -1)]);
        let attended = match &grouped {
            None => graph.op("MatMul", &[&weights, &value], vec![]),
            Some((by_group, by_head)) => {
                let weights = graph.op("Reshape", &[&weights, by_group], vec![]);
                let attended = graph.op("MatMul", &[&weights, &value], vec![]);
                graph.op("Reshape", &[&attended, by_head], vec![])
            }
        };
        let attended = self.transpose(&attended, &[0, 2, 1, 3]);
        let attended = self.graph.op("Reshape", &[&attended, &merge_heads], vec![]);
        self.linear(layer, &attended, LinearId::AttentionOutput)
    }

    /// Splits `[batch, sequence, heads · head_dim]` into heads, and normalizes and rotates those of queries and keys,
    /// for which `norm` is given with a factor.
    fn by_head(
        &mut self,
        layer: usize,
        input: &str,
        split_heads: &str,
        norm: Option<(NormId, f32)>,
    ) -> Result<String, ImportError> {
        let attention = &self.network.spec.attention;
        let mut value = self.graph.op("Reshape", &[input, split_heads], vec![]);
        if let Some((norm, factor)) = norm {
            if attention.has_query_key_norm {
                value = self.norm(&value, norm, factor)?;
            }
            if let Some(rope) = self.network.spec.layers[layer].rope {
                value = self.positions.rotate(self.graph, &value, rope, attention.head_dim)?;
            }
        }
        Ok(value)
    }

    fn transpose(&mut self, input: &str, order: &[i64]) -> String {
        self.graph.op("Transpose", &[input], vec![AttributeProto::ints("perm", order)])
    }
}
