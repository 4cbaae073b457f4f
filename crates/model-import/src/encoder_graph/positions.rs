//! Values that depend on the positions of a batch's tokens. Each is computed once and used by all layers: masks,
//! relative attention bias, and rotary position embeddings.

use encoder_spec::{Rope, ScoreBias, Span, TensorId};

use crate::{
    ImportError,
    family::Network,
    graph_builder::GraphBuilder,
    onnx::{AttributeProto, DataType},
    weights::Weights,
};

/// Added to the attention score of a masked position. After the softmax its weight is exactly 0, yet the value is
/// finite, so that a row of padding alone yields numbers and not NaN.
const MASK_BIAS: f32 = -1e9;

/// The names of the values, as far as they have been added to the graph.
pub(super) struct PositionValues {
    ids: String,
    /// Bias of the scores of padding: `[batch, 1, 1, sequence]`.
    padding: String,
    max_tokens: usize,
    /// Number of tokens of the longest text, `[1]`.
    length: Option<String>,
    /// Key position − query position: `[sequence, sequence]`.
    offsets: Option<String>,
    score_biases: Vec<(Span, String)>,
    rotations: Vec<(Rope, [String; 2])>,
}

impl PositionValues {
    pub(super) fn new(graph: &mut GraphBuilder<'_>, ids: &str, mask: &str, max_tokens: usize) -> Self {
        // (1 − mask) · MASK_BIAS, as [batch, 1, 1, sequence]: 0 for a token.
        let float = vec![AttributeProto::int("to", DataType::Float as i64)];
        let mask = graph.op("Cast", &[mask], float);
        let one = graph.scalar("one", 1.0);
        let mask = graph.op("Sub", &[&one, &mask], vec![]);
        let masked = graph.scalar("masked", MASK_BIAS);
        let mask = graph.op("Mul", &[&mask, &masked], vec![]);
        let axes = graph.integers("mask_axes", &[1, 2]);
        let padding = graph.op("Unsqueeze", &[&mask, &axes], vec![]);
        Self {
            ids: ids.to_owned(),
            padding,
            max_tokens,
            length: None,
            offsets: None,
            score_biases: vec![],
            rotations: vec![],
        }
    }

    /// Returns the first rows of a table, one for each token of the longest text.
    pub(super) fn slice(&mut self, graph: &mut GraphBuilder<'_>, table: &str) -> String {
        let length = self.length(graph);
        let zero = graph.integers("first", &[0]);
        graph.op("Slice", &[table, &zero, &length, &zero], vec![])
    }

    fn length(&mut self, graph: &mut GraphBuilder<'_>) -> String {
        let ids = &self.ids;
        let length = || {
            let attributes = vec![AttributeProto::int("start", 1), AttributeProto::int("end", 2)];
            graph.op("Shape", &[ids], attributes)
        };
        self.length.get_or_insert_with(length).clone()
    }

    fn offsets(&mut self, graph: &mut GraphBuilder<'_>) -> String {
        if let Some(offsets) = &self.offsets {
            return offsets.clone();
        }
        let length = self.length(graph);
        let end = graph.op("Squeeze", &[&length], vec![]);
        let (start, step) = (graph.integer("zero", 0), graph.integer("one_position", 1));
        let positions = graph.op("Range", &[&start, &end, &step], vec![]);
        let axis = graph.integers("query_axis", &[1]);
        let queries = graph.op("Unsqueeze", &[&positions, &axis], vec![]);
        let offsets = graph.op("Sub", &[&positions, &queries], vec![]);
        self.offsets.insert(offsets).clone()
    }

    /// Returns, for each pair of a query and a key, the index of its offset in a table of all offsets, in the order of
    /// [`all_offsets`](Self::all_offsets).
    pub(super) fn offset_indices(&mut self, graph: &mut GraphBuilder<'_>) -> String {
        let offsets = self.offsets(graph);
        let last = graph.integer("last_position", self.max_tokens as i64 - 1);
        graph.op("Add", &[&offsets, &last], vec![])
    }

    /// Returns every offset of a key position from a query position.
    pub(super) fn all_offsets(&self) -> impl ExactSizeIterator<Item = i64> + Clone + use<> {
        let last = self.max_tokens as i32 - 1;
        (-last..last + 1).map(i64::from)
    }

    /// Returns the bias of the attention scores of layers with this span, in a shape that `[batch, heads, sequence,
    /// sequence]` can be added to.
    pub(super) fn score_bias(
        &mut self,
        graph: &mut GraphBuilder<'_>,
        network: &Network,
        weights: &Weights,
        span: Span,
    ) -> Result<String, ImportError> {
        if let Some((_, bias)) = self.score_biases.iter().find(|(known, _)| *known == span) {
            return Ok(bias.clone());
        }
        let mut bias = self.padding.clone();
        if let Some(outside) = self.span_bias(graph, span) {
            bias = graph.op("Add", &[&bias, &outside], vec![]);
        }
        if let ScoreBias::Relative(relative) = network.spec.attention.score_bias {
            let heads = network.spec.attention.heads;
            let table = network.read(weights, TensorId::RelativeBias)?;
            let by_offset: Vec<f32> = (0..heads)
                .flat_map(|head| {
                    let table = &table;
                    self.all_offsets().map(move |offset| table[relative.row(offset) * heads + head])
                })
                .collect();
            let name = network.locate(TensorId::RelativeBias).name;
            let table = graph.weight(&name, &[heads, self.all_offsets().len()], &by_offset)?;
            let indices = self.offset_indices(graph);
            let relative = graph.op("Gather", &[&table, &indices], vec![AttributeProto::int("axis", 1)]);
            bias = graph.op("Add", &[&relative, &bias], vec![]);
        }
        self.score_biases.push((span, bias.clone()));
        Ok(bias)
    }

    /// Returns the bias of the keys outside a span: `[sequence, sequence]`; `None` if there are none.
    fn span_bias(&mut self, graph: &mut GraphBuilder<'_>, span: Span) -> Option<String> {
        let (distances, limit) = match span {
            Span::Full => return None,
            Span::Window(distance) if distance >= self.max_tokens => return None,
            Span::Causal => (self.offsets(graph), graph.integer("zero", 0)),
            Span::Window(distance) => {
                let offsets = self.offsets(graph);
                let limit = graph.integer(&format!("window_{distance}"), distance as i64);
                (graph.op("Abs", &[&offsets], vec![]), limit)
            }
        };
        let outside = graph.op("Greater", &[&distances, &limit], vec![]);
        let (masked, inside) = (graph.scalar("masked", MASK_BIAS), graph.scalar("inside", 0.0));
        Some(graph.op("Where", &[&outside, &masked, &inside], vec![]))
    }

    /// Rotates `[batch, sequence, heads, head_dim]` by position. The pair of dimensions (x₁, x₂) becomes
    /// (x₁ cos − x₂ sin, x₂ cos + x₁ sin); the table of sines has the sign of its first half changed, so that halves
    /// need only be swapped.
    pub(super) fn rotate(
        &mut self,
        graph: &mut GraphBuilder<'_>,
        input: &str,
        rope: Rope,
        head_dim: usize,
    ) -> Result<String, ImportError> {
        let [cos, sin] = self.rotation(graph, rope, head_dim)?;
        let halves = vec![AttributeProto::int("axis", -1), AttributeProto::int("num_outputs", 2)];
        let [first, second] = graph.ops("Split", &[input], halves);
        let swapped = graph.op("Concat", &[&second, &first], vec![AttributeProto::int("axis", -1)]);
        let kept = graph.op("Mul", &[input, &cos], vec![]);
        let crossed = graph.op("Mul", &[&swapped, &sin], vec![]);
        Ok(graph.op("Add", &[&kept, &crossed], vec![]))
    }

    /// Returns cosines and sines for each position: `[sequence, 1, head_dim]`.
    fn rotation(
        &mut self,
        graph: &mut GraphBuilder<'_>,
        rope: Rope,
        head_dim: usize,
    ) -> Result<[String; 2], ImportError> {
        if let Some((_, rotation)) = self.rotations.iter().find(|(known, _)| *known == rope) {
            return Ok(rotation.clone());
        }
        let (mut cosines, mut sines) = (vec![], vec![]);
        for position in 0..self.max_tokens {
            for dimension in 0..head_dim {
                let pair = dimension % (head_dim / 2);
                let (cos, sin) = rope.cos_sin(position, pair, head_dim);
                cosines.push(cos);
                sines.push(if dimension < head_dim / 2 { -sin } else { sin });
            }
        }
        let shape = [self.max_tokens, 1, head_dim];
        let index = self.rotations.len();
        let mut table = |name: &str, values: &[f32]| {
            let table = graph.weight(&format!("rope_{index}.{name}"), &shape, values)?;
            Ok::<_, ImportError>(self.slice(graph, &table))
        };
        let rotation = [table("cos", &cosines)?, table("sin", &sines)?];
        self.rotations.push((rope, rotation.clone()));
        Ok(rotation)
    }
}
