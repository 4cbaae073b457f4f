//! Selection of a model's backend and precision from one list of candidates, fastest first.
//!
//! A new precision is an entry of [`CANDIDATES`] and its kernels (docs/adr/0020).

use bert_cpu::Isa;
use inference::Provider;
use model_import::{AccuracyMeasure, Precision};

use super::ModelLoadError;
use crate::{
    backend::{Backend, Selection, SelectionReason},
    config::{MaxIsa, ModelConfig, PrecisionSetting, Ratio},
    error_chain::error_chain,
};

/// Native kernels for one instruction set, with the precision that they compute in.
pub(super) struct Candidate {
    pub(super) isa: Isa,
    pub(super) precision: Precision,
    /// Default size of a batch of whole sequences, which one core takes through all layers. A request waits for the
    /// batches before it, so the size trades throughput for latency: in fp32 larger batches gain a few percent (measure
    /// with `EMBEDGATE_MAX_BATCH_TOKENS=256 embedgate model bench`), with AVX-512 up to 8 %, where 98 are seven full
    /// tiles of registers; in bf16 they must be larger to amortize reading the weights. In int8 a batch of
    /// this size takes about as long as the smaller one in fp32.
    pub(super) batch_tokens: usize,
}

/// All native candidates, fastest first. The first one that meets every condition is selected.
pub(super) const CANDIDATES: [Candidate; 9] = [
    Candidate { isa: Isa::AmxBf16, precision: Precision::Bf16, batch_tokens: 256 },
    Candidate { isa: Isa::Avx512Vnni, precision: Precision::Int8, batch_tokens: 128 },
    Candidate { isa: Isa::Avx512Bf16, precision: Precision::Bf16, batch_tokens: 96 },
    Candidate { isa: Isa::AvxVnni, precision: Precision::Int8, batch_tokens: 96 },
    Candidate { isa: Isa::Avx512, precision: Precision::Fp32, batch_tokens: 98 },
    Candidate { isa: Isa::Avx2Int8, precision: Precision::Int8, batch_tokens: 64 },
    Candidate { isa: Isa::Avx2, precision: Precision::Fp32, batch_tokens: 48 },
    Candidate { isa: Isa::NeonDotprod, precision: Precision::Int8, batch_tokens: 96 },
    Candidate { isa: Isa::Neon, precision: Precision::Fp32, batch_tokens: 48 },
];

/// Smallest cosine to the vectors in fp32 with which `precision = "auto"` accepts a precision, unless the settings
/// state another.
const AUTO_MIN_COSINE: f64 = 0.9999;

/// Largest difference to the scores in fp32 with which `precision = "auto"` accepts a precision for a reranker, unless
/// the settings state another. It corresponds to [`AUTO_MIN_COSINE`]: vectors of this cosine differ by 0.014 of their
/// length.
const AUTO_MAX_SCORE_DIFFERENCE: f64 = 0.01;

/// Worst value of `measure` with which a model is served in `precision`; `None` for fp32 itself, where there is nothing
/// to prove.
pub(super) fn accuracy_bound(
    model: &ModelConfig,
    measure: AccuracyMeasure,
    precision: Precision,
) -> Option<f64> {
    let is_int8 = precision == Precision::Int8 && model.precision == PrecisionSetting::Int8;
    let (int8, auto, default) = match measure {
        AccuracyMeasure::Cosine => (model.int8_min_cosine, model.auto_min_cosine, AUTO_MIN_COSINE),
        AccuracyMeasure::ScoreDifference => {
            (model.int8_max_score_difference, model.auto_max_score_difference, AUTO_MAX_SCORE_DIFFERENCE)
        }
    };
    match precision {
        Precision::Fp32 => None,
        _ if is_int8 => Some(int8.get()),
        _ => Some(auto.map_or(default, Ratio::get)),
    }
}

/// Returns true if `precision = "auto"` may select int8 for a model whose accuracy is given by `measure`.
pub(super) fn accepts_int8(model: &ModelConfig, measure: AccuracyMeasure) -> bool {
    match measure {
        AccuracyMeasure::Cosine => model.auto_min_cosine.is_some(),
        AccuracyMeasure::ScoreDifference => model.auto_max_score_difference.is_some(),
    }
}

impl Candidate {
    /// The candidate with the kernels for `isa`.
    pub(super) fn of(isa: Isa) -> Option<&'static Self> {
        CANDIDATES.iter().find(|candidate| candidate.isa == isa)
    }

    /// The fastest fp32 kernels of this CPU, against which the accuracy of other candidates is proved.
    pub(super) fn reference(is_supported: impl Fn(Isa) -> bool) -> Option<&'static Self> {
        CANDIDATES.iter().find(|candidate| !candidate.is_lossy() && is_supported(candidate.isa))
    }

    /// Returns true if the precision rounds more than the weights' own.
    fn is_lossy(&self) -> bool {
        self.precision != Precision::Fp32
    }

    /// First condition that the candidate does not meet. The cap comes last, so that [`SelectionReason::Capped`] means
    /// that without the cap the candidate would be selected.
    fn unmet_condition(
        &self,
        query: &BackendQuery,
        is_supported: impl Fn(Isa) -> bool,
    ) -> Option<SelectionReason> {
        match query.isa {
            _ if query.provider != Provider::Cpu => Some(SelectionReason::Provider),
            _ if query.has_onnx_file => Some(SelectionReason::OnnxFile),
            MaxIsa::None => Some(SelectionReason::Configured),
            _ if !query.has_native_kernels => Some(SelectionReason::UnsupportedNetwork),
            _ if !is_supported(self.isa) => Some(SelectionReason::UnsupportedCpu),
            MaxIsa::At(cap) if cap < self.isa => Some(SelectionReason::Capped),
            _ => None,
        }
    }
}

/// Facts that the selection depends on, apart from the CPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackendQuery {
    /// Configured provider.
    pub(super) provider: Provider,
    /// Configured precision.
    pub(super) precision: PrecisionSetting,
    /// `precision = "auto"` may select int8.
    pub(super) accepts_int8: bool,
    /// Configured maximum instruction set.
    pub(super) isa: MaxIsa,
    /// The settings name a graph.
    pub(super) has_onnx_file: bool,
    /// There are native kernels for the network.
    pub(super) has_native_kernels: bool,
}

impl BackendQuery {
    fn requested_precision(&self) -> Option<Precision> {
        match self.precision {
            PrecisionSetting::Auto => None,
            PrecisionSetting::Fp32 => Some(Precision::Fp32),
            PrecisionSetting::Bf16 => Some(Precision::Bf16),
            PrecisionSetting::Int8 => Some(Precision::Int8),
        }
    }

    fn accepts(&self, precision: Precision) -> bool {
        match self.requested_precision() {
            Some(requested) => precision == requested,
            None => precision != Precision::Int8 || self.accepts_int8,
        }
    }
}

/// Backends to try in order. Each fallback is for a failed accuracy proof or golden check of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackendPlan {
    pub(crate) preferred: Selection,
    pub(crate) fallbacks: Vec<Backend>,
}

impl BackendPlan {
    /// Calls `attempt` with one backend after the other, until one succeeds or fails for a reason that another backend
    /// would not change. Returns the last result.
    pub(super) fn try_each<T>(
        self,
        model: &str,
        mut attempt: impl FnMut(Selection) -> Result<T, ModelLoadError>,
    ) -> Result<T, ModelLoadError> {
        let Self { preferred, fallbacks } = self;
        let (mut backend, mut result) = (preferred.backend, attempt(preferred));
        for fallback in fallbacks {
            let Err(error) = &result else { break };
            let Some(reason) = error.fallback_reason() else { break };
            let error = error_chain(error);
            tracing::warn!(model, %backend, %fallback, error, "falling back to the next backend");
            (backend, result) = (fallback, attempt(Selection { backend: fallback, reason }));
        }
        result
    }

    /// Returns true if the preferred backend needs an accuracy proof.
    pub(crate) fn needs_proof(&self) -> bool {
        self.preferred.backend.isa().and_then(Candidate::of).is_some_and(Candidate::is_lossy)
    }
}

/// Selects the backends to try; `is_supported` tells whether the CPU and the operating system support an instruction
/// set.
///
/// # Errors
/// When no candidate has the requested precision, with the reason.
pub(super) fn select(
    query: &BackendQuery,
    is_supported: impl Fn(Isa) -> bool,
) -> Result<BackendPlan, String> {
    let requested = query.requested_precision();
    let mut plan: Option<BackendPlan> = None;
    let mut passed_over = None;
    let (mut planned, mut has_exact) = (Vec::new(), false);
    for candidate in CANDIDATES.iter().filter(|candidate| query.accepts(candidate.precision)) {
        // Other kernels in the same precision would fail as well.
        if planned.contains(&candidate.precision) {
            continue;
        }
        let backend = Backend::Native(candidate.isa);
        match (candidate.unmet_condition(query, &is_supported), &mut plan) {
            (Some(SelectionReason::UnsupportedCpu), _) | (Some(_), Some(_)) => continue,
            (Some(reason), None) => {
                passed_over = Some(reason);
                continue;
            }
            (None, Some(plan)) => plan.fallbacks.push(backend),
            (None, plan @ None) => {
                let default =
                    if requested.is_some() { SelectionReason::Configured } else { SelectionReason::Best };
                let preferred = Selection { backend, reason: passed_over.unwrap_or(default) };
                *plan = Some(BackendPlan { preferred, fallbacks: Vec::new() });
            }
        }
        if !candidate.is_lossy() {
            has_exact = true;
            break;
        }
        planned.push(candidate.precision);
    }
    match (plan, requested) {
        (Some(mut plan), None) if !has_exact => {
            plan.fallbacks.push(Backend::OnnxRuntime);
            Ok(plan)
        }
        (Some(plan), _) => Ok(plan),
        // ONNX Runtime computes in the precision of its graph.
        (None, Some(precision)) if precision != Precision::Fp32 => Err(unavailable(precision, passed_over)),
        (None, _) => {
            let reason = passed_over.unwrap_or(SelectionReason::UnsupportedCpu);
            let preferred = Selection { backend: Backend::OnnxRuntime, reason };
            Ok(BackendPlan { preferred, fallbacks: Vec::new() })
        }
    }
}

fn unavailable(precision: Precision, reason: Option<SelectionReason>) -> String {
    let precision = precision.name();
    let reason = match reason {
        None => format!("this CPU has no {precision} instructions"),
        Some(SelectionReason::Capped) => "the setting `isa` does not allow it".to_owned(),
        Some(SelectionReason::Configured) => "`isa = \"none\"` selects ONNX Runtime".to_owned(),
        Some(reason) => reason.to_string(),
    };
    format!("precision = \"{precision}\" is unavailable: {reason}; set \"auto\" or \"fp32\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: BackendQuery = BackendQuery {
        provider: Provider::Cpu,
        precision: PrecisionSetting::Auto,
        accepts_int8: false,
        isa: MaxIsa::Best,
        has_onnx_file: false,
        has_native_kernels: true,
    };

    const AVX2: &[Isa] = &[Isa::Avx2, Isa::Avx2Int8];
    const AVX512: &[Isa] = &[Isa::Avx2, Isa::Avx2Int8, Isa::Avx512];
    const VNNI: &[Isa] = &[Isa::Avx2, Isa::Avx2Int8, Isa::Avx512, Isa::Avx512Vnni];
    /// With a fast `vdpbf16ps`.
    const ZEN: &[Isa] =
        &[Isa::Avx2, Isa::Avx2Int8, Isa::AvxVnni, Isa::Avx512, Isa::Avx512Vnni, Isa::Avx512Bf16];
    const AMX: &[Isa] = &[Isa::Avx2, Isa::Avx2Int8, Isa::Avx512, Isa::Avx512Vnni, Isa::AmxBf16];
    const X86: [&[Isa]; 6] = [&[], AVX2, AVX512, VNNI, ZEN, AMX];
    const DOTPROD: &[Isa] = &[Isa::Neon, Isa::NeonDotprod];
    const ARM64: [&[Isa]; 2] = [&[Isa::Neon], DOTPROD];

    fn select_on(query: &BackendQuery, supported: &[Isa]) -> Result<BackendPlan, String> {
        select(query, |isa| supported.contains(&isa))
    }

    #[track_caller]
    fn check_plan(
        query: BackendQuery,
        supported: &[Isa],
        preferred: (Backend, SelectionReason),
        then: &[Backend],
    ) {
        let plan = select_on(&query, supported).unwrap();
        assert_eq!((plan.preferred.backend, plan.preferred.reason), preferred);
        assert_eq!(plan.fallbacks, then);
    }

    /// Checks a plan without fallbacks.
    #[track_caller]
    fn check(query: BackendQuery, supported: &[Isa], expected: (Backend, SelectionReason)) {
        check_plan(query, supported, expected, &[]);
    }

    #[test]
    fn candidates_cover_every_instruction_set_once_with_its_precision() {
        for isa in Isa::ALL {
            let found: Vec<_> = CANDIDATES.iter().filter(|candidate| candidate.isa == isa).collect();
            let [candidate] = found[..] else { panic!("{isa}: {} candidates", found.len()) };
            let expected = match isa.precision() {
                bert_cpu::Precision::Fp32 => Precision::Fp32,
                bert_cpu::Precision::Bf16 => Precision::Bf16,
                bert_cpu::Precision::Int8 => Precision::Int8,
            };
            assert_eq!(candidate.precision, expected, "{isa}");
            assert_eq!(candidate.is_lossy(), expected != Precision::Fp32, "{isa}");
        }
    }

    #[test]
    fn auto_tries_bf16_with_a_fallback_in_fp32() {
        let (bf16, fp32) = (Backend::Native(Isa::AmxBf16), Backend::Native(Isa::Avx512));
        check_plan(QUERY, AMX, (bf16, SelectionReason::Best), &[fp32]);
        check(QUERY, AVX2, (Backend::Native(Isa::Avx2), SelectionReason::Best));
        check(QUERY, &[], (Backend::OnnxRuntime, SelectionReason::UnsupportedCpu));
    }

    #[test]
    fn bf16_in_vectors_is_selected_where_it_is_fast() {
        let (bf16, fp32) = (Backend::Native(Isa::Avx512Bf16), Backend::Native(Isa::Avx512));
        check_plan(QUERY, ZEN, (bf16, SelectionReason::Best), &[fp32]);
        check(QUERY, VNNI, (fp32, SelectionReason::Best));
    }

    #[test]
    fn int8_is_selected_only_if_the_settings_ask_for_it() {
        let native = Backend::Native;
        let int8 = BackendQuery { precision: PrecisionSetting::Int8, ..QUERY };
        for (cpu, isa) in [
            (AVX2, Isa::Avx2Int8),
            (VNNI, Isa::Avx512Vnni),
            (AMX, Isa::Avx512Vnni),
            (DOTPROD, Isa::NeonDotprod),
        ] {
            check(int8, cpu, (native(isa), SelectionReason::Configured));
        }
        let capped = BackendQuery { isa: MaxIsa::At(Isa::Avx512), ..int8 };
        check(capped, VNNI, (native(Isa::Avx2Int8), SelectionReason::Capped));
        for cpu in [&[], &[Isa::Neon][..]] {
            let error = select_on(&int8, cpu).unwrap_err();
            assert!(error.contains("this CPU has no int8 instructions"), "{error}");
        }
        let capped = BackendQuery { isa: MaxIsa::At(Isa::Neon), ..int8 };
        let error = select_on(&capped, DOTPROD).unwrap_err();
        assert!(error.contains("the setting `isa` does not allow it"), "{error}");

        let accepting = BackendQuery { accepts_int8: true, ..QUERY };
        let best = |isa| (native(isa), SelectionReason::Best);
        check(QUERY, DOTPROD, best(Isa::Neon));
        check_plan(accepting, DOTPROD, best(Isa::NeonDotprod), &[native(Isa::Neon)]);
        check_plan(accepting, VNNI, best(Isa::Avx512Vnni), &[native(Isa::Avx512)]);
        let then = [native(Isa::Avx512Bf16), native(Isa::Avx512)];
        check_plan(accepting, ZEN, best(Isa::Avx512Vnni), &then);
        let then = [native(Isa::Avx512Vnni), native(Isa::Avx512)];
        check_plan(accepting, AMX, best(Isa::AmxBf16), &then);
    }

    #[test]
    fn the_bound_of_accuracy_is_that_of_the_settings_for_the_measure() {
        use AccuracyMeasure::{Cosine, ScoreDifference};
        let auto = ModelConfig::builtin("a".to_owned(), "a".into(), 1);
        let of = |model: &ModelConfig, measure| {
            [Precision::Fp32, Precision::Bf16, Precision::Int8]
                .map(|precision| accuracy_bound(model, measure, precision))
        };
        assert_eq!(of(&auto, Cosine), [None, Some(0.9999), Some(0.9999)]);
        assert_eq!(of(&auto, ScoreDifference), [None, Some(0.01), Some(0.01)]);
        let int8 = ModelConfig { precision: PrecisionSetting::Int8, ..auto.clone() };
        assert_eq!((of(&int8, Cosine)[2], of(&int8, ScoreDifference)[2]), (Some(0.99), Some(0.05)));
        let lenient = ModelConfig { auto_min_cosine: Ratio::new(0.98), ..auto.clone() };
        assert_eq!(of(&lenient, Cosine), [None, Some(0.98), Some(0.98)]);
        assert_eq!(of(&lenient, ScoreDifference), of(&auto, ScoreDifference));
        assert_eq!([Cosine, ScoreDifference].map(|measure| accepts_int8(&lenient, measure)), [true, false]);
        let lenient = ModelConfig { auto_max_score_difference: Ratio::new(0.2), ..auto };
        assert_eq!(of(&lenient, ScoreDifference), [None, Some(0.2), Some(0.2)]);
        assert_eq!([Cosine, ScoreDifference].map(|measure| accepts_int8(&lenient, measure)), [false, true]);
    }

    #[test]
    fn a_requested_precision_is_selected_or_an_error() {
        let bf16 = BackendQuery { precision: PrecisionSetting::Bf16, ..QUERY };
        check(bf16, AMX, (Backend::Native(Isa::AmxBf16), SelectionReason::Configured));
        let fp32 = BackendQuery { precision: PrecisionSetting::Fp32, ..QUERY };
        check(fp32, AMX, (Backend::Native(Isa::Avx512), SelectionReason::Configured));
        let capped = BackendQuery { isa: MaxIsa::At(Isa::Avx512), ..bf16 };
        let refused = [
            (bf16, AVX2, "this CPU has no bf16 instructions"),
            (capped, AVX2, "this CPU has no bf16 instructions"),
            (capped, AMX, "the setting `isa` does not allow it"),
            (
                BackendQuery { provider: Provider::Cuda { device: 0 }, ..bf16 },
                AVX2,
                "only ONNX Runtime has this provider",
            ),
            (BackendQuery { has_onnx_file: true, ..bf16 }, AVX2, "`onnx_file` names a graph"),
            (BackendQuery { has_native_kernels: false, ..bf16 }, AVX2, "no native kernels for this network"),
            (BackendQuery { isa: MaxIsa::None, ..bf16 }, AVX2, "`isa = \"none\"` selects ONNX Runtime"),
        ];
        for (query, supported, reason) in refused {
            let error = select_on(&query, supported).unwrap_err();
            assert!(error.contains(reason), "{query:?}: {error}");
        }
    }

    #[test]
    fn onnx_runtime_is_selected_without_native_candidates() {
        let onnx = |reason| (Backend::OnnxRuntime, reason);
        let unsupported = BackendQuery { has_native_kernels: false, ..QUERY };
        check(unsupported, AVX2, onnx(SelectionReason::UnsupportedNetwork));
        let configured = BackendQuery { isa: MaxIsa::None, ..QUERY };
        check(configured, AMX, onnx(SelectionReason::Configured));
        check(BackendQuery { has_onnx_file: true, ..QUERY }, AMX, onnx(SelectionReason::OnnxFile));
        let cuda = BackendQuery { provider: Provider::Cuda { device: 1 }, ..QUERY };
        check(cuda, AVX2, onnx(SelectionReason::Provider));
        let fp32 = BackendQuery { precision: PrecisionSetting::Fp32, ..QUERY };
        check(fp32, &[], onnx(SelectionReason::UnsupportedCpu));
    }

    #[test]
    fn a_cap_is_the_reason_only_if_it_changes_the_selection() {
        let at = |isa| BackendQuery { isa: MaxIsa::At(isa), ..QUERY };
        let native = |isa, reason| (Backend::Native(isa), reason);
        check(at(Isa::Neon), AMX, (Backend::OnnxRuntime, SelectionReason::Capped));
        check(at(Isa::Neon), AVX512, (Backend::OnnxRuntime, SelectionReason::Capped));
        check(at(Isa::Avx2), AMX, native(Isa::Avx2, SelectionReason::Capped));
        check(at(Isa::Avx512), AMX, native(Isa::Avx512, SelectionReason::Capped));
        check(at(Isa::Avx2), AVX512, native(Isa::Avx2, SelectionReason::Capped));
        check(at(Isa::Avx512), AVX512, native(Isa::Avx512, SelectionReason::Best));
        check(at(Isa::Avx512), AVX2, native(Isa::Avx2, SelectionReason::Best));
        check(at(Isa::Avx2), &[], (Backend::OnnxRuntime, SelectionReason::UnsupportedCpu));
        let fp32 = BackendQuery { precision: PrecisionSetting::Fp32, ..at(Isa::Avx2) };
        check(fp32, AMX, native(Isa::Avx2, SelectionReason::Capped));
    }

    #[test]
    fn every_reason_is_true_of_its_cpu() {
        let caps = [MaxIsa::Best, MaxIsa::None].into_iter().chain(Isa::ALL.map(MaxIsa::At));
        let cpus = X86.into_iter().chain(ARM64);
        for (isa, supported) in caps.flat_map(|isa| cpus.clone().map(move |supported| (isa, supported))) {
            let precisions = [
                (PrecisionSetting::Auto, false),
                (PrecisionSetting::Auto, true),
                (PrecisionSetting::Fp32, false),
                (PrecisionSetting::Bf16, false),
                (PrecisionSetting::Int8, false),
            ];
            for (precision, accepts_int8) in precisions {
                let query = BackendQuery { precision, accepts_int8, isa, ..QUERY };
                let Ok(BackendPlan { preferred, fallbacks }) = select_on(&query, supported) else { continue };
                let without_cap = || {
                    let query = BackendQuery { isa: MaxIsa::Best, ..query };
                    select_on(&query, supported).unwrap().preferred.backend
                };
                let Selection { backend, reason } = preferred;
                let holds = match reason {
                    SelectionReason::Configured => isa == MaxIsa::None || precision != PrecisionSetting::Auto,
                    SelectionReason::Best => without_cap() == backend,
                    SelectionReason::Capped => without_cap() != backend,
                    // Reasons of a fallback, or of another query.
                    SelectionReason::AccuracyFailed
                    | SelectionReason::GoldenFailed
                    | SelectionReason::UnsupportedNetwork
                    | SelectionReason::Provider
                    | SelectionReason::OnnxFile => false,
                    SelectionReason::UnsupportedCpu => supported.is_empty(),
                };
                assert!(holds, "{query:?} on {supported:?}: {backend} because of {reason:?}");
                let is_lossy =
                    |backend: Backend| backend.isa().and_then(Candidate::of).is_some_and(Candidate::is_lossy);
                let has_fallback = is_lossy(backend) && precision == PrecisionSetting::Auto;
                assert_eq!(fallbacks.last().is_some_and(|&last| !is_lossy(last)), has_fallback, "{query:?}");
            }
        }
    }
}
