//! Zeroed memory for weights and activations, aligned to a cache line, which is also the size of an AVX-512 vector.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ptr::NonNull,
};

const ALIGNMENT: usize = 64;

/// A fixed number of f32. Several threads may write disjoint parts of it through `Matrix` views.
pub(crate) struct Buffer {
    start: NonNull<f32>,
    len: usize,
}

// SAFETY: the buffer owns its memory; access goes through `&self`, `&mut self` or a `Matrix`, whose contract forbids
// data races.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) }.cast::<f32>();
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, len }
    }

    /// # Panics
    /// If the size overflows; `BertConfig::validate` bounds the callers' sizes.
    fn layout(len: usize) -> Layout {
        let layout = Layout::array::<f32>(len.max(1)).and_then(|layout| layout.align_to(ALIGNMENT));
        layout.expect("a buffer's size fits the address space")
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn pointer(&self) -> *mut f32 {
        self.start.as_ptr()
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: `start` is valid for `len` initialized values, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The values, while no thread writes them.
    ///
    /// # Safety
    /// No task that writes this buffer may run while the slice lives.
    pub(crate) unsafe fn as_slice(&self) -> &[f32] {
        // SAFETY: `start` is valid for `len` initialized values; the caller excludes writers.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `zeroed` with this layout.
        unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) }
    }
}

/// Memory of one thread that grows to the largest size asked for.
#[derive(Default)]
pub(crate) struct ScratchBuffer(Option<Buffer>);

impl ScratchBuffer {
    /// A buffer of at least `len` values, whose content is unspecified.
    pub(crate) fn reserve(&mut self, len: usize) -> &Buffer {
        let large_enough = self.0.take().filter(|buffer| buffer.len() >= len);
        self.0.insert(large_enough.unwrap_or_else(|| Buffer::zeroed(len)))
    }
}

#[cfg(test)]
impl From<Buffer> for ScratchBuffer {
    fn from(buffer: Buffer) -> Self {
        Self(Some(buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_buffer_is_zeroed_and_aligned() {
        for len in [0, 1, 15, 1000] {
            let mut buffer = Buffer::zeroed(len);
            assert_eq!(buffer.pointer().addr() % ALIGNMENT, 0);
            assert_eq!(buffer.as_mut_slice(), vec![0.0; len]);
        }
    }

    #[test]
    fn a_scratch_buffer_grows_and_never_shrinks() {
        let mut scratch = ScratchBuffer::default();
        let lengths = [5, 3, 8, 0].map(|len| scratch.reserve(len).len());
        assert_eq!(lengths, [5, 5, 8, 8]);
    }
}
