//! Memory for weights and states: zeroed, and aligned to a cache line, which is also a vector of AVX-512.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ptr::NonNull,
};

const ALIGNMENT: usize = 64;

/// A fixed number of f32. Several threads may write it at once through [`matrix`](crate::matrix), each its own
/// part.
pub(crate) struct Buffer {
    start: NonNull<f32>,
    len: usize,
}

// SAFETY: the buffer owns its memory; access to it goes through `&self`, `&mut self` or a `Matrix`, whose
// contract forbids racing.
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
    /// When the size overflows; callers' sizes are bounded by `BertConfig::validate`.
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
        // SAFETY: `start` is valid for `len` initialised values, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The values, while nobody writes.
    ///
    /// # Safety
    /// No task that writes this buffer may run while the slice lives.
    pub(crate) unsafe fn as_slice(&self) -> &[f32] {
        // SAFETY: `start` is valid for `len` initialised values; the caller excludes writers.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `zeroed` with this layout.
        unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_and_aligned() {
        for len in [0, 1, 15, 1000] {
            let mut buffer = Buffer::zeroed(len);
            assert_eq!(buffer.pointer().addr() % ALIGNMENT, 0);
            assert_eq!(buffer.as_mut_slice(), vec![0.0; len]);
        }
    }
}
