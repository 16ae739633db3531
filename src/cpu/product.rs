//! Matrix products in the accumulation type, on one thread: the callers run many side by side.

use gemm_common::Parallelism;

use crate::element::Real;

/// The routine of `gemm-f32` or `gemm-f64`: `m`, `n`, `k`; the output with column and row stride, and whether to read it; the left
/// and the right matrix with column and row strides; factors of what the output held and of the product; conjugations, for
/// complex types; threads. It wants an output whose columns are contiguous.
pub(crate) type Routine<A> = unsafe fn(
    usize,
    usize,
    usize,
    *mut A,
    isize,
    isize,
    bool,
    *const A,
    isize,
    isize,
    *const A,
    isize,
    isize,
    A,
    A,
    bool,
    bool,
    bool,
    Parallelism,
);

/// A type whose matrices can be multiplied: each has a crate of its own, which is built without what complex types need.
pub trait Multiply: Sized {
    /// For the vector width of this machine.
    fn routine() -> Routine<Self>;
}

impl Multiply for f32 {
    fn routine() -> Routine<Self> {
        gemm_f32::gemm::f32::get_gemm_fn()
    }
}

impl Multiply for f64 {
    fn routine() -> Routine<Self> {
        gemm_f64::gemm::f64::get_gemm_fn()
    }
}

/// A strided matrix.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, A> {
    data: &'a [A],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, A> Matrix<'a, A> {
    /// Row-major [rows, cols].
    pub(crate) fn new(data: &'a [A], rows: usize, cols: usize) -> Self {
        Self::with_stride(data, rows, cols, cols)
    }

    /// [rows, cols] whose rows are `row_stride` apart.
    pub(crate) fn with_stride(data: &'a [A], rows: usize, cols: usize, row_stride: usize) -> Self {
        let needed = if rows == 0 || cols == 0 {
            0
        } else {
            (rows - 1) * row_stride + cols
        };
        assert!(
            data.len() >= needed,
            "a {rows}×{cols} matrix in {} elements",
            data.len()
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The transpose, without moving anything.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// What happens to what the output held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Overwrite,
    Add,
}

/// `out` = `a`·`b` (or += ), `out` [a.rows, b.cols] with rows `out_stride` apart.
pub(crate) fn product<A: Real>(
    out: &mut [A],
    out_stride: usize,
    store: Store,
    a: Matrix<'_, A>,
    b: Matrix<'_, A>,
) {
    assert_eq!(a.cols, b.rows, "inner sizes of a product");
    let (m, n, k) = (a.rows, b.cols, a.cols);
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        out.len() >= (m - 1) * out_stride + n,
        "an {m}×{n} product into {} elements",
        out.len()
    );
    if k == 0 {
        if store == Store::Overwrite {
            for row in out.chunks_mut(out_stride).take(m) {
                row[..n.min(out_stride)].fill(A::ZERO);
            }
        }
        return;
    }
    // SAFETY: `Matrix` was made in bounds, `out` is in bounds by the assertion above, and `out` is exclusively borrowed so
    // it overlaps neither input.
    // What is contiguous in `out` is its rows: outᵀ = bᵀ·aᵀ.
    unsafe {
        A::routine()(
            n,
            m,
            k,
            out.as_mut_ptr(),
            out_stride as isize,
            1,
            store == Store::Add,
            b.data.as_ptr(),
            b.row_stride as isize,
            b.col_stride as isize,
            a.data.as_ptr(),
            a.row_stride as isize,
            a.col_stride as isize,
            A::ONE,
            A::ONE,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Rounds `n` elements up so that neighbouring pieces of scratch do not share a cache line.
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(32)
}
