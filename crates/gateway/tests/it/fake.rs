//! An encoder without a model. Its vectors are a fixed function of the ids, and a test can hold it or inject faults.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use inference::{Batch, EncodeError, Encoder, EncoderFactory};

/// Default length of the vectors.
pub(crate) const DIMENSIONS: usize = 8;

/// A test's control of the encoders of one model.
#[derive(Default)]
pub(crate) struct Control {
    state: Mutex<State>,
    changed: Condvar,
    encoded: AtomicUsize,
    /// Each encoder of the model holds a reference.
    alive: Arc<()>,
}

#[derive(Default)]
struct State {
    held: bool,
    /// Batches that reached an encoder, including held ones.
    entered: usize,
    next: VecDeque<InjectedFault>,
}

/// Number of failing batches after which the engine reports an encoder failure for a single input: the input, its
/// retry and the engine's probe.
pub(crate) const FAILURES_OF_ENCODER: usize = 3;

/// A fault of one batch.
pub(crate) enum InjectedFault {
    Panic,
    Fail(EncodeError),
    /// The vector of the first input contains NaN.
    NotFinite,
}

impl Control {
    /// Holds every batch, from the next one on.
    pub(crate) fn hold(&self) {
        self.state.lock().unwrap().held = true;
    }

    /// Releases all batches.
    pub(crate) fn release(&self) {
        self.state.lock().unwrap().held = false;
        self.changed.notify_all();
    }

    /// Injects a fault into the next batch without one.
    pub(crate) fn inject(&self, fault: InjectedFault) {
        self.state.lock().unwrap().next.push_back(fault);
    }

    /// Makes the next `batches` fail.
    pub(crate) fn fail(&self, batches: usize, error: impl Fn() -> EncodeError) {
        (0..batches).for_each(|_| self.inject(InjectedFault::Fail(error())));
    }

    /// Number of batches that reached an encoder.
    pub(crate) fn entered(&self) -> usize {
        self.state.lock().unwrap().entered
    }

    /// Returns true if an encoder of the model exists.
    pub(crate) fn has_encoders(&self) -> bool {
        Arc::strong_count(&self.alive) > 1
    }

    /// Number of encoded sequences.
    pub(crate) fn encoded(&self) -> usize {
        self.encoded.load(Ordering::SeqCst)
    }

    /// Waits until a batch beyond the first `before` has reached an encoder.
    #[track_caller]
    pub(crate) fn wait_for_batch(&self, before: usize) {
        let state = self.state.lock().unwrap();
        let limit = Duration::from_secs(20);
        let waited = self.changed.wait_timeout_while(state, limit, |state| state.entered <= before);
        assert!(!waited.unwrap().1.timed_out(), "no batch reached the encoder");
    }

    /// Counts and holds a batch, or a load of a model. Returns the fault to inject into it.
    pub(crate) fn enter(&self) -> Option<InjectedFault> {
        let mut state = self.state.lock().unwrap();
        state.entered += 1;
        self.changed.notify_all();
        let limit = Duration::from_secs(30);
        let (mut state, late) = self.changed.wait_timeout_while(state, limit, |state| state.held).unwrap();
        assert!(!late.timed_out(), "the test never released it");
        state.next.pop_front()
    }
}

struct Fake {
    control: Arc<Control>,
    dimensions: usize,
    /// Lets a test see that the encoder was dropped.
    _alive: Arc<()>,
}

impl Encoder for Fake {
    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn needs_padding(&self) -> bool {
        false
    }

    /// A test that holds the encoders can load another model.
    fn needs_warm_up(&self) -> bool {
        false
    }

    fn encode(
        &mut self,
        batch: &Batch,
        _: &mut dyn FnMut() -> usize,
        out: &mut [f32],
    ) -> Result<(), EncodeError> {
        let fault = self.control.enter();
        match fault {
            Some(InjectedFault::Panic) => panic!("injected by the test"),
            Some(InjectedFault::Fail(error)) => return Err(error),
            Some(InjectedFault::NotFinite) | None => {}
        }
        self.control.encoded.fetch_add(batch.len(), Ordering::SeqCst);
        for (ids, row) in batch.sequences().zip(out.chunks_exact_mut(self.dimensions)) {
            fill(ids, row);
        }
        if matches!(fault, Some(InjectedFault::NotFinite)) {
            out[0] = f32::NAN;
        }
        Ok(())
    }
}

/// Fills `row` with values that depend on the ids and their order.
fn fill(ids: &[u32], row: &mut [f32]) {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &id in ids {
        hash = (hash ^ u64::from(id)).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
    }
    for value in row {
        hash = hash.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        *value = (hash >> 40) as f32 / (1_u64 << 23) as f32 - 1.0;
    }
}

/// A factory of encoders under `control` for the model whose loads are under `loads`.
pub(crate) fn encoders(control: &Arc<Control>, dimensions: usize, loads: &Control) -> EncoderFactory {
    let (control, alive) = (Arc::clone(control), Arc::clone(&loads.alive));
    Arc::new(move || {
        Ok(Box::new(Fake { control: Arc::clone(&control), dimensions, _alive: Arc::clone(&alive) }))
    })
}
