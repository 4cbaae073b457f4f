//! The AMX tile instructions, in stable Rust.
//!
//! Rust 1.95 has no stable intrinsics for AMX, so its instructions are `asm!`. There are eight tile registers of 16
//! rows of 64 bytes. Every GEMM of this crate uses them in the same way: 32 × 32 accumulators, 32 rows of A and 32
//! columns of B.
//!
//! ```text
//!                       ┌───────┬───────┐
//!                       │ tmm6  │ tmm7  │  B: 16 pairs of k × 16 columns each
//!                       └───────┴───────┘
//!             ┌───────┐ ┌───────┬───────┐
//!     a_upper │ tmm4  │ │ tmm0  │ tmm1  │
//!             ├───────┤ ├───────┼───────┤  accumulators: 16 × 16 f32 each
//!     a_lower │ tmm5  │ │ tmm2  │ tmm3  │
//!             └───────┘ └───────┴───────┘
//!         A: 16 rows × 32 k each
//! ```
//!
//! An A tile is 1 KiB of contiguous memory, 64 bytes a row. The rows of a B tile are 128 bytes apart: the rows of the
//! two tiles alternate, so a panel of 32 columns is simply `[pairs of k, 32 columns, 2]`.
//!
//! `tdpbf16ps` sums the products of even k and of odd k separately, with one rounding for each term, and adds both to
//! the f32 accumulator. It rounds to nearest and treats denormal numbers as zero, whatever MXCSR says (Intel 64 and
//! IA-32 Architectures Software Developer's Manual, volume 2). A row of accumulators depends on the same row of A only.

use std::{arch::asm, marker::PhantomData};

use crate::Isa;

/// Rows of a tile.
pub(super) const TILE: usize = 16;
/// Columns of a panel of B: two tiles.
pub(super) const NR: usize = 2 * TILE;
/// K of one tile instruction: the bf16 values in a tile's row. Widths of activations are padded to multiples of it.
pub(super) const K_BLOCK: usize = 32;
/// Bytes from one row of a B tile to the next.
const B_STRIDE: usize = 128;

/// Proof that [`Isa::AmxBf16`] is available: AMX for bf16, and AVX-512 with the extensions that the vector code uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amx(());

impl Amx {
    /// Returns the proof if the instruction set is available.
    pub(crate) fn detect() -> Option<Self> {
        Isa::AmxBf16.is_available().then_some(Self(()))
    }
}

/// Operand of `ldtilecfg`.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The configured tile registers of this thread, released when dropped. A thread has at most one value at a time.
///
/// The methods leave values in tile registers for one another. No other code changes the registers in between: the
/// compiler uses them only with the target feature `amx-tile`, which nothing enables.
pub(super) struct Tiles {
    /// Makes the type neither `Send` nor `Sync`: registers belong to a thread.
    not_send: PhantomData<*mut ()>,
}

impl Tiles {
    /// Configures every tile as 16 rows of 64 bytes, with palette 1.
    pub(super) fn configure(_: Amx) -> Self {
        let mut config =
            TileConfig { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.row_bytes[..8].fill(64);
        config.rows[..8].fill(16);
        // SAFETY: the instruction exists and is permitted, as the token proves, and reads 64 bytes.
        unsafe {
            asm!("ldtilecfg [{0}]", in(reg) &raw const config,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly, preserves_flags));
        }
        Self { not_send: PhantomData }
    }

    /// Sets the accumulators to zero; only the upper ones unless `PAIR`.
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

    /// Loads the accumulators; only the upper ones unless `PAIR`. `stride` is in values.
    ///
    /// # Safety
    /// `from` must be valid for reading 32 rows of 32 values; unless `PAIR`, 16 rows.
    #[inline(always)]
    pub(super) unsafe fn load<const PAIR: bool>(&self, from: *const f32, stride: usize) {
        // SAFETY: the tiles are configured; by the caller's contract.
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

    /// Stores the accumulators; only the upper ones unless `PAIR`. `stride` is in values.
    ///
    /// # Safety
    /// `to` must be valid for writing 32 rows of 32 values; unless `PAIR`, 16 rows.
    #[inline(always)]
    pub(super) unsafe fn store<const PAIR: bool>(&self, to: *mut f32, stride: usize) {
        // SAFETY: the tiles are configured; by the caller's contract.
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

    /// Adds A · B over 32 k to the accumulators; only to the upper ones unless `PAIR`. `NT_B` loads B with the
    /// non-temporal hint, otherwise A: the operand that is not reused soon.
    ///
    /// # Safety
    /// `a_upper`, and `a_lower` if `PAIR`, must be valid for reading 1 KiB, and `b` for 2 KiB.
    #[inline(always)]
    pub(super) unsafe fn multiply<const PAIR: bool, const NT_B: bool>(
        &self,
        a_upper: *const u8,
        a_lower: *const u8,
        b: *const u8,
    ) {
        // `tileloaddt1` is `tileloadd` with the hint not to keep the data in the L1d cache.
        macro_rules! multiply {
            ($load_a:literal, $load_b:literal) => {
                if PAIR {
                    asm!(
                        concat!($load_b, " tmm6, [{b} + 2 * {row}]"),
                        concat!($load_a, " tmm4, [{a_upper} + {row}]"),
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        concat!($load_b, " tmm7, [{b} + 2 * {row} + 64]"),
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        concat!($load_a, " tmm5, [{a_lower} + {row}]"),
                        "tdpbf16ps tmm2, tmm5, tmm6",
                        "tdpbf16ps tmm3, tmm5, tmm7",
                        a_upper = in(reg) a_upper, a_lower = in(reg) a_lower, b = in(reg) b,
                        row = in(reg) B_STRIDE / 2,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(readonly, nostack, preserves_flags)
                    )
                } else {
                    asm!(
                        concat!($load_b, " tmm6, [{b} + 2 * {row}]"),
                        concat!($load_a, " tmm4, [{a_upper} + {row}]"),
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        concat!($load_b, " tmm7, [{b} + 2 * {row} + 64]"),
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        a_upper = in(reg) a_upper, b = in(reg) b, row = in(reg) B_STRIDE / 2,
                        out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                        options(readonly, nostack, preserves_flags)
                    )
                }
            };
        }
        // SAFETY: the tiles are configured; by the caller's contract.
        unsafe {
            if NT_B {
                multiply!("tileloadd", "tileloaddt1");
            } else {
                multiply!("tileloaddt1", "tileloadd");
            }
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the instruction exists, as the token proved. Afterwards a thread switch need not save the registers.
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

    /// Bits of the tile state that are in use on this thread: configuration and data.
    fn tile_state_in_use() -> u32 {
        let (low, _high): (u32, u32);
        // SAFETY: CPUs with AMX have XGETBV with ECX = 1; it only reads the in-use bits.
        unsafe {
            asm!("xgetbv", in("ecx") 1, out("eax") low, out("edx") _high,
                options(nomem, nostack, preserves_flags));
        }
        low >> 17 & 0b11
    }

    #[test]
    #[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
    fn tile_registers_are_released_on_drop() {
        let amx = amx();
        assert_eq!(tile_state_in_use(), 0);
        let tiles = Tiles::configure(amx);
        tiles.clear::<true>();
        assert_eq!(tile_state_in_use() & 1, 1);
        drop(tiles);
        assert_eq!(tile_state_in_use(), 0);
    }

    #[test]
    #[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
    fn accumulators_are_loaded_and_stored_unchanged() {
        let amx = amx();
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
