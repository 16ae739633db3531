//! Which context a tensor is of, and that no memory goes away under a kernel.

use std::sync::Arc;

use millet::cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, result};
use millet::{Backend, Cuda, Error, MoeConfig, Result, RowMap};

use crate::alone;

const TOKENS: usize = 300;
const HIDDEN: usize = 64;

/// Permute of tokens to rows, with maps in the backend's stream.
fn permute(cuda: &Cuda, x: &CudaSlice<f32>, rows: &mut CudaSlice<f32>) -> Result<()> {
    let config = MoeConfig::builder(HIDDEN, 1, 4, 2).build()?;
    let assignments: Vec<i32> = (0..2 * TOKENS as i32).collect();
    let map = cuda.upload(&assignments)?;
    let offsets = cuda.upload(&[0, 150, 300, 450, 600])?;
    let tiles = cuda.allocate(2 * config.max_row_tiles(TOKENS))?;
    let map = RowMap {
        offsets: (&offsets).into(),
        row_to_assignment: (&map).into(),
        assignment_to_row: (&map).into(),
        row_tiles: (&tiles).into(),
    };
    cuda.permute::<f32>(&config, TOKENS, x.into(), map, rows.as_view_mut())
}

fn tensors(stream: &Arc<CudaStream>) -> (CudaSlice<f32>, CudaSlice<f32>) {
    let x = stream.clone_htod(&vec![1.5; TOKENS * HIDDEN]).unwrap();
    (x, stream.alloc_zeros(2 * TOKENS * HIDDEN).unwrap())
}

#[test]
fn another_hold_of_the_same_context_is_another_context() {
    let _alone = alone();
    let cuda = Cuda::device(0).unwrap();
    // Has the same handle, but no streams of its own: it would free `x` as soon as it is dropped.
    let other = CudaContext::new(0).unwrap();
    assert_eq!(&other, cuda.stream().context());
    let (mut x, mut rows) = tensors(cuda.stream());
    let (other_x, mut other_rows) = tensors(&other.default_stream());
    for (result, name) in [
        (permute(&cuda, &other_x, &mut rows), "x"),
        (permute(&cuda, &x, &mut other_rows), "rows"),
        (cuda.read((&other_x).into()).map(drop), "view"),
    ] {
        let error = result.unwrap_err();
        assert!(
            matches!(error, Error::WrongContext { tensor, ordinal: 0, .. } if tensor == name),
            "{error}"
        );
        assert!(error.to_string().contains("another CudaContext"), "{error}");
    }
    drop((other_x, other_rows, other));
    permute(&cuda, &x, &mut rows).unwrap();
    x = cuda.upload(&[0.0]).unwrap();
    assert_eq!(cuda.read((&rows).into()).unwrap()[..9], [1.5; 9]);
    drop(x);
}

#[test]
fn a_backend_has_one_order() {
    let _alone = alone();
    let context = CudaContext::new(0).unwrap();
    let error = Cuda::new(&context.per_thread_stream()).unwrap_err();
    assert!(
        matches!(error, Error::Unsupported { .. }) && error.to_string().contains("per-thread"),
        "{error}"
    );
    // The default stream is one for all.
    let cuda = Cuda::new(&context.default_stream()).unwrap();
    let (x, mut rows) = tensors(cuda.stream());
    permute(&cuda, &x, &mut rows).unwrap();
    drop(x);
    assert_eq!(cuda.read((&rows).into()).unwrap()[..9], [1.5; 9]);
}

/// cudarc tells a tensor who uses it only while the context has streams other than the default one, so a backend that takes the last
/// one along leaves no work in it.
#[test]
fn the_last_clone_of_a_backend_waits_for_its_stream() {
    let _alone = alone();
    let cuda = Cuda::device(0).unwrap();
    let stream = cuda.stream().clone();
    // Keeps the kernels loaded: unloading waits for everything.
    let _loaded = Cuda::new(&stream.context().default_stream()).unwrap();
    let (x, mut rows) = tensors(&stream);
    permute(&cuda, &x, &mut rows).unwrap();
    // SAFETY: pinned memory, which a copy writes when the stream comes to it, and which is freed when nothing uses it any more.
    unsafe {
        let host = result::malloc_host(4, 0).unwrap().cast::<f32>();
        host.write(0.0);
        let (address, guard) = rows.device_ptr(&stream);
        let to = std::slice::from_raw_parts_mut(host, 1);
        result::memcpy_dtoh_async(to, address, stream.cu_stream()).unwrap();
        drop(guard);
        drop(cuda.clone());
        drop(cuda);
        assert_eq!(host.read_volatile(), 1.5);
        stream.synchronize().unwrap();
        result::free_host(host.cast()).unwrap();
    }
}
