//! Matrix products, on the calling thread.

/// A view of a matrix.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major, as many rows as there are.
    pub fn new(data: &'a [f32], columns: usize) -> Self {
        assert!(data.len().is_multiple_of(columns), "whole rows");
        Self {
            data,
            rows: data.len() / columns,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// `count` columns of a row-major matrix, from `first` on.
    pub fn columns(self, first: usize, count: usize) -> Self {
        assert!(self.column_stride == 1 && first + count <= self.columns);
        Self {
            data: &self.data[first..],
            columns: count,
            ..self
        }
    }

    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// `out` = `a`·`b`, row-major [a.rows, b.columns].
pub fn product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    assert_eq!(a.columns, b.rows, "inner sizes of a product");
    assert_eq!(out.len(), a.rows * b.columns, "size of a product");
    // SAFETY: a `Matrix` covers elements of its slice only: `new` takes whole rows, `columns` stays inside a row, and
    // `transposed` swaps sizes together with strides. `out` has a.rows·b.columns elements and overlaps neither, because it is
    // borrowed exclusively.
    // The routine wants an output whose columns are contiguous: outᵀ = bᵀ·aᵀ.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            b.columns,
            a.rows,
            a.columns,
            out.as_mut_ptr(),
            b.columns as isize,
            1,
            false, // do not read `out`
            b.data.as_ptr(),
            b.row_stride as isize,
            b.column_stride as isize,
            a.data.as_ptr(),
            a.row_stride as isize,
            a.column_stride as isize,
            0.0, // factor of what `out` held
            1.0, // factor of the product
            false,
            false,
            false,
            gemm_common::Parallelism::None,
        );
    }
}
