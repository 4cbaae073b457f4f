//! A model in memory: its weights packed for one instruction set, behind one interface.

use std::sync::Arc;

#[cfg(target_arch = "aarch64")]
use crate::lanes::Neon;
use crate::{
    BertConfig, EncodeError, Isa, ModelError, TokenEmbeddings, WeightSource,
    encoder::Block,
    exact::Exact,
    plan::{Plan, Task},
    thread_pool::{Pass, Progress, ThreadPool},
};
#[cfg(target_arch = "x86_64")]
use crate::{
    amx::{Amx, Bf16},
    lanes::{Avx2, Avx512},
};

/// Packed weights; shared by all encoders of the model.
pub struct Model {
    config: BertConfig,
    isa: Isa,
    network: Box<dyn Runnable>,
}

impl Model {
    /// Reads and packs the weights, on up to `threads` threads.
    ///
    /// # Errors
    /// [`ModelError`]: a shape that makes no sense, a weight that is missing or has the wrong size, an
    /// instruction set that this processor lacks.
    pub fn new(
        config: BertConfig,
        source: &dyn WeightSource,
        token_embeddings: TokenEmbeddings,
        isa: Isa,
        threads: usize,
    ) -> Result<Self, ModelError> {
        let config = config.validate()?;
        let network = network(config, source, token_embeddings, isa, threads)?;
        Ok(Self { config, isa, network })
    }

    /// The sizes.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    pub(crate) fn runner(&self) -> Box<dyn Runner> {
        self.network.runner()
    }
}

fn network(
    config: BertConfig,
    source: &dyn WeightSource,
    token_embeddings: TokenEmbeddings,
    isa: Isa,
    threads: usize,
) -> Result<Box<dyn Runnable>, ModelError> {
    let lacking = ModelError::Isa(isa);
    Ok(match isa {
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => {
            let lanes = Neon::detect().ok_or(lacking)?;
            Box::new(Arc::new(Exact::new(lanes, config, source, token_embeddings, threads)?))
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            let lanes = Avx2::detect().ok_or(lacking)?;
            Box::new(Arc::new(Exact::new(lanes, config, source, token_embeddings, threads)?))
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            let lanes = Avx512::detect().ok_or(lacking)?;
            Box::new(Arc::new(Exact::new(lanes, config, source, token_embeddings, threads)?))
        }
        #[cfg(target_arch = "x86_64")]
        Isa::AmxBf16 => {
            let amx = Amx::detect().ok_or(lacking)?;
            Box::new(Arc::new(Bf16::new(amx, config, source, token_embeddings, threads)?))
        }
        _ => return Err(lacking),
    })
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("config", &self.config).field("isa", &self.isa).finish_non_exhaustive()
    }
}

/// The final states of a block's tokens, in order.
#[derive(Debug, Clone, Copy)]
pub struct HiddenStates<'s> {
    values: &'s [f32],
    stride: usize,
    width: usize,
}

impl<'s> HiddenStates<'s> {
    pub(crate) fn new(values: &'s [f32], stride: usize, width: usize) -> Self {
        Self { values, stride, width }
    }

    /// Row-major values: token `t`'s state begins at `t · stride`.
    pub fn values(&self) -> &'s [f32] {
        self.values
    }

    /// Values from one row's beginning to the next one's; at least `width`.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Values of one state.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The state of one token.
    pub fn row(&self, token: usize) -> &'s [f32] {
        &self.values[token * self.stride..][..self.width]
    }
}

/// A network's arithmetic.
pub(crate) trait Network: Send + Sync + 'static {
    /// Memory that the tasks of one pass share.
    type States: Send + Sync;

    fn config(&self) -> &BertConfig;

    /// Memory for blocks of up to `rows` tokens.
    fn states(&self, rows: usize) -> Self::States;

    /// Runs one task.
    ///
    /// # Safety
    /// All tasks before `task.after` must be done, and no other call may run the same task of this pass.
    /// Implementations let the tasks of one step write disjoint parts, and read only what earlier steps wrote.
    unsafe fn run(&self, task: Task, block: &Block, states: &Self::States);

    /// The result. Only when no task runs.
    fn hidden<'s>(&self, block: &Block, states: &'s Self::States) -> HiddenStates<'s>;
}

/// A network whose type has been forgotten.
trait Runnable: Send + Sync {
    fn runner(&self) -> Box<dyn Runner>;
}

impl<N: Network> Runnable for Arc<N> {
    fn runner(&self) -> Box<dyn Runner> {
        Box::new(Run { network: Self::clone(self), states: None, block: Arc::default() })
    }
}

/// A network with memory to run it in.
pub(crate) trait Runner: Send {
    /// See [`Encoder::encode`](crate::Encoder::encode).
    fn run(
        &mut self,
        block: Block,
        pool: &ThreadPool,
        meanwhile: &mut dyn FnMut() -> usize,
    ) -> Result<HiddenStates<'_>, EncodeError>;
}

struct Run<N: Network> {
    network: Arc<N>,
    /// Memory of the largest block so far, and that block's rows.
    states: Option<(usize, Arc<N::States>)>,
    /// The last block: what the result refers to.
    block: Arc<Block>,
}

impl<N: Network> Runner for Run<N> {
    fn run(
        &mut self,
        block: Block,
        pool: &ThreadPool,
        meanwhile: &mut dyn FnMut() -> usize,
    ) -> Result<HiddenStates<'_>, EncodeError> {
        let rows = block.rows();
        let states = match self.states.take() {
            Some((most, states)) if most >= rows => (most, states),
            _ => (rows, Arc::new(self.network.states(rows))),
        };
        let (_, states) = self.states.insert(states);
        self.block = Arc::new(block);
        let config = self.network.config();
        let mut begun = 0;
        while begun < config.layers {
            let helpers = meanwhile().min(pool.helpers());
            // Alone by one layer at a time, so that whoever has nothing to do by then can help with the next.
            let end = if helpers > 0 { config.layers } else { begun + 1 };
            let pass = Arc::new(SharedPass {
                network: Arc::clone(&self.network),
                states: Arc::clone(states),
                block: Arc::clone(&self.block),
                progress: Progress::new(Plan::new(config, rows, begun..end, helpers + 1)),
            });
            pool.run(&(Arc::clone(&pass) as Arc<dyn Pass>), helpers, meanwhile);
            pass.progress.result()?;
            begun = end;
        }
        Ok(self.network.hidden(&self.block, states))
    }
}

/// Everything that a thread needs to take part in a pass.
struct SharedPass<N: Network> {
    network: Arc<N>,
    states: Arc<N::States>,
    block: Arc<Block>,
    progress: Progress,
}

impl<N: Network> Pass for SharedPass<N> {
    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn work(&self, stays: &mut dyn FnMut() -> bool) {
        // SAFETY: `Progress` hands out each task once, and only when those of all earlier steps are done; the
        // states belong to this pass until `ThreadPool::run` returns.
        self.progress.work(stays, |task| unsafe { self.network.run(task, &self.block, &self.states) });
    }
}
