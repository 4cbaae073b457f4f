//! AMX from stable Rust: is it there, may this process use it, and the instructions themselves.
//!
//! Rust 1.95 has no intrinsics for AMX, so its instructions are `asm!`. There are eight tile registers, each of 16
//! rows of 64 bytes. Every product in this module gives them the same roles: 32 × 32 sums, 32 rows of a left
//! factor and 32 columns of a right one.
//!
//! ```text
//!                      ┌───────┬───────┐
//!                      │ tmm6  │ tmm7  │  right: 16 pairs of inputs × 16 columns each
//!                      └───────┴───────┘
//!            ┌───────┐ ┌───────┬───────┐
//!      upper │ tmm4  │ │ tmm0  │ tmm1  │
//!            ├───────┤ ├───────┼───────┤  sums: 16 × 16 f32 each
//!      lower │ tmm5  │ │ tmm2  │ tmm3  │
//!            └───────┘ └───────┴───────┘
//!       left: 16 rows × 32 inputs each
//! ```
//!
//! A left tile is 1 KiB in one piece, 64 bytes a row. A right tile's rows are 128 bytes apart: the rows of the
//! two column tiles alternate, so that a panel of 32 columns is simply `[pairs, 32 columns, 2]`.
//!
//! `tdpbf16ps` sums the products of the even inputs and those of the odd ones apart, each with one rounding a term,
//! and adds both to the f32 sum; it rounds to nearest and takes denormal numbers for zero, whatever MXCSR says
//! (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2). One row of sums depends on one row of
//! the left factor alone.

use std::{arch::asm, marker::PhantomData};

use crate::Isa;

/// Rows of a tile.
pub(super) const TILE: usize = 16;
/// Values of bf16 in a tile's row: the inputs that one instruction multiplies and sums. Also the columns of a
/// panel.
pub(super) const UNIT: usize = 32;
/// Bytes from one row of a right tile to the next.
const RIGHT_STRIDE: usize = 128;

/// Proof that this processor has AMX for bf16, and AVX-512 with the extensions that the kernels beside it use,
/// and that the operating system lets this process use them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amx(());

impl Amx {
    /// Returns the proof if [`Isa::AmxBf16`] is available.
    pub(crate) fn detect() -> Option<Self> {
        Isa::AmxBf16.is_available().then_some(Self(()))
    }
}

/// What `ldtilecfg` reads: palette 1, and every tile 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The tile registers of this thread, configured; released when dropped. A thread makes one at a time.
///
/// Its methods leave values in tile registers for one another. No other code of this thread touches those in
/// between: the compiler uses them only where the target feature `amx-tile` is enabled, which is nowhere.
pub(super) struct Tiles {
    /// Registers are a thread's own, so this must not leave it.
    on_this_thread: PhantomData<*mut ()>,
}

impl Tiles {
    pub(super) fn configure(_: Amx) -> Self {
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        configuration.row_bytes[..8].fill(64);
        configuration.rows[..8].fill(16);
        // SAFETY: the instruction exists and is permitted, as the token proves, and reads 64 bytes.
        unsafe {
            asm!("ldtilecfg [{0}]", in(reg) &raw const configuration,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly, preserves_flags));
        }
        Self { on_this_thread: PhantomData }
    }

    /// Zero sums; only the upper ones unless `PAIR`.
    #[inline(always)]
    pub(super) fn clear<const PAIR: bool>(&self) {
        // SAFETY: the tiles are configured.
        unsafe {
            asm!("tilezero tmm0", "tilezero tmm1", out("tmm0") _, out("tmm1") _,
                options(nomem, nostack, preserves_flags));
            if PAIR {
                asm!("tilezero tmm2", "tilezero tmm3", out("tmm2") _, out("tmm3") _,
                    options(nomem, nostack, preserves_flags));
            }
        }
    }

    /// Loads sums; only the upper ones unless `PAIR`. `stride` is in values.
    ///
    /// # Safety
    /// `from` must be valid for reading 32 rows of 32 values; unless `PAIR`, 16 rows.
    #[inline(always)]
    pub(super) unsafe fn load<const PAIR: bool>(&self, from: *const f32, stride: usize) {
        // SAFETY: the tiles are configured; by the caller's promise.
        unsafe {
            asm!("tileloadd tmm0, [{from} + {stride}]", "tileloadd tmm1, [{from} + {stride} + 64]",
                from = in(reg) from, stride = in(reg) stride * 4, out("tmm0") _, out("tmm1") _,
                options(readonly, nostack, preserves_flags));
            if PAIR {
                asm!("tileloadd tmm2, [{from} + {stride}]", "tileloadd tmm3, [{from} + {stride} + 64]",
                    from = in(reg) from.wrapping_add(TILE * stride), stride = in(reg) stride * 4,
                    out("tmm2") _, out("tmm3") _, options(readonly, nostack, preserves_flags));
            }
        }
    }

    /// Stores the sums; only the upper ones unless `PAIR`. `stride` is in values.
    ///
    /// # Safety
    /// `to` must be valid for writing 32 rows of 32 values; unless `PAIR`, 16 rows.
    #[inline(always)]
    pub(super) unsafe fn store<const PAIR: bool>(&self, to: *mut f32, stride: usize) {
        // SAFETY: the tiles are configured; by the caller's promise.
        unsafe {
            asm!("tilestored [{to} + {stride}], tmm0", "tilestored [{to} + {stride} + 64], tmm1",
                to = in(reg) to, stride = in(reg) stride * 4, options(nostack, preserves_flags));
            if PAIR {
                asm!("tilestored [{to} + {stride}], tmm2", "tilestored [{to} + {stride} + 64], tmm3",
                    to = in(reg) to.wrapping_add(TILE * stride), stride = in(reg) stride * 4,
                    options(nostack, preserves_flags));
            }
        }
    }

    /// Adds left · right, 32 inputs, to the sums; only to the upper ones unless `PAIR`. `STREAM` says which
    /// factor will not be wanted again soon: the right one, or else the left.
    ///
    /// # Safety
    /// `upper`, and `lower` if `PAIR`, must be valid for reading 1 KiB, and `right` for 2 KiB.
    #[inline(always)]
    pub(super) unsafe fn multiply<const PAIR: bool, const STREAM: bool>(
        &self,
        upper: *const u8,
        lower: *const u8,
        right: *const u8,
    ) {
        // `tileloaddt1` is `tileloadd` with the hint not to keep the data in the nearest cache.
        macro_rules! multiply {
            ($left:literal, $right:literal) => {
                if PAIR {
                    asm!(
                        concat!($right, " tmm6, [{right} + 2 * {row}]"),
                        concat!($left, " tmm4, [{upper} + {row}]"),
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        concat!($right, " tmm7, [{right} + 2 * {row} + 64]"),
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        concat!($left, " tmm5, [{lower} + {row}]"),
                        "tdpbf16ps tmm2, tmm5, tmm6",
                        "tdpbf16ps tmm3, tmm5, tmm7",
                        upper = in(reg) upper, lower = in(reg) lower, right = in(reg) right,
                        row = in(reg) RIGHT_STRIDE / 2,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(readonly, nostack, preserves_flags)
                    )
                } else {
                    asm!(
                        concat!($right, " tmm6, [{right} + 2 * {row}]"),
                        concat!($left, " tmm4, [{upper} + {row}]"),
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        concat!($right, " tmm7, [{right} + 2 * {row} + 64]"),
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        upper = in(reg) upper, right = in(reg) right, row = in(reg) RIGHT_STRIDE / 2,
                        out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                        options(readonly, nostack, preserves_flags)
                    )
                }
            };
        }
        // SAFETY: the tiles are configured; by the caller's promise.
        unsafe {
            if STREAM {
                multiply!("tileloadd", "tileloaddt1");
            } else {
                multiply!("tileloaddt1", "tileloadd");
            }
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the instruction exists, as the token proved. It gives the registers up, so that switching
        // threads need not save them.
        unsafe {
            asm!("tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nomem, nostack, preserves_flags));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amx::kernel_tests::amx;

    /// Which of the tiles' two states are in use on this thread.
    fn in_use() -> u32 {
        let (low, _high): (u32, u32);
        // SAFETY: there is AMX, and so XGETBV with ECX = 1; it reads the in-use bits alone.
        unsafe {
            asm!("xgetbv", in("ecx") 1, out("eax") low, out("edx") _high,
                options(nomem, nostack, preserves_flags));
        }
        low >> 17 & 0b11
    }

    #[test]
    fn tiles_are_given_up_when_dropped() {
        let Some(amx) = amx() else { return };
        assert_eq!(in_use(), 0);
        let tiles = Tiles::configure(amx);
        tiles.clear::<true>();
        assert_eq!(in_use() & 1, 1);
        drop(tiles);
        assert_eq!(in_use(), 0);
    }

    #[test]
    fn sums_go_in_and_out_unchanged() {
        let Some(amx) = amx() else { return };
        const STRIDE: usize = 40;
        let from: Vec<f32> = (0..32 * STRIDE).map(|index| index as f32).collect();
        for pair in [false, true] {
            let mut to = vec![-1.0; from.len()];
            let tiles = Tiles::configure(amx);
            // SAFETY: 32 rows of 40 values.
            unsafe {
                if pair {
                    tiles.load::<true>(from.as_ptr(), STRIDE);
                    tiles.store::<true>(to.as_mut_ptr(), STRIDE);
                } else {
                    tiles.load::<false>(from.as_ptr(), STRIDE);
                    tiles.store::<false>(to.as_mut_ptr(), STRIDE);
                }
            }
            for (index, found) in to.into_iter().enumerate() {
                let (row, column) = (index / STRIDE, index % STRIDE);
                let stored = column < 32 && (pair || row < 16);
                assert_eq!(found, if stored { from[index] } else { -1.0 }, "({row}, {column})");
            }
        }
    }
}
