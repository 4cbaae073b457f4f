//! How rows are shared out over tiles, each of which is compiled for its number of rows.

use crate::lanes::Lanes;

/// Rows of the largest tile, over all instruction sets.
pub(super) const MOST_ROWS: usize = 14;

/// A tile of fewer rows takes no less time: a multiply-add takes four cycles, in which eight can be begun, and a row has
/// two.
const FEW_ROWS: usize = 4;

/// What is computed some rows at a time.
pub(super) trait Tiled {
    /// Computes the `R` rows from `row` on.
    ///
    /// # Safety
    /// The rows must exist, and nobody else may access what is written.
    unsafe fn tile<L: Lanes, const R: usize>(&self, lanes: L, row: usize);
}

/// Computes `rows` rows, in one tile if they fit. Else in the largest ones, the first of which waits for the right
/// factor from afar and so computes as much as it can meanwhile; but the last two share their rows rather than
/// leave too few to the last.
///
/// # Safety
/// As for [`Tiled::tile`], of all the rows.
#[inline(always)]
pub(super) unsafe fn compute<L: Lanes>(lanes: L, rows: usize, what: &impl Tiled) {
    const { assert!(FEW_ROWS < L::TILE_ROWS && L::TILE_ROWS <= MOST_ROWS) };
    let mut row = 0;
    while row < rows {
        let rest = rows - row;
        let height = if rest <= L::TILE_ROWS { rest } else { L::TILE_ROWS.min(rest - FEW_ROWS) };
        // SAFETY: so many rows are left. Which heights an instruction set has is known when this is compiled.
        unsafe {
            match height {
                1 => what.tile::<L, 1>(lanes, row),
                2 => what.tile::<L, 2>(lanes, row),
                3 => what.tile::<L, 3>(lanes, row),
                4 => what.tile::<L, 4>(lanes, row),
                5 => what.tile::<L, 5>(lanes, row),
                6 => what.tile::<L, 6>(lanes, row),
                7 if L::TILE_ROWS >= 7 => what.tile::<L, 7>(lanes, row),
                8 if L::TILE_ROWS >= 8 => what.tile::<L, 8>(lanes, row),
                9 if L::TILE_ROWS >= 9 => what.tile::<L, 9>(lanes, row),
                10 if L::TILE_ROWS >= 10 => what.tile::<L, 10>(lanes, row),
                11 if L::TILE_ROWS >= 11 => what.tile::<L, 11>(lanes, row),
                12 if L::TILE_ROWS >= 12 => what.tile::<L, 12>(lanes, row),
                13 if L::TILE_ROWS >= 13 => what.tile::<L, 13>(lanes, row),
                14 if L::TILE_ROWS >= 14 => what.tile::<L, 14>(lanes, row),
                _ => unreachable!("no tile has {height} rows"),
            }
        }
        row += height;
    }
}
