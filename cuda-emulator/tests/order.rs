//! Races between streams, which `CUDA_EMULATOR_CHECK=all` finds whatever order the work happened to run in. Each test may break the
//! primary context, and so they take turns.

use std::sync::{Arc, Mutex, MutexGuard};

use cuda_emulator_loader as _;
use cudarc::driver::{
    CudaContext, CudaModule, CudaSlice, CudaStream, LaunchConfig, PushKernelArg, sys,
};
use cudarc::nvrtc::Ptx;
use sys::cudaError_enum as Code;

const PTX: &str = include_str!("data/tests.ptx");

/// The context without event tracking, so that the tests decide what is ordered, and two streams.
struct Setup {
    context: Arc<CudaContext>,
    a: Arc<CudaStream>,
    b: Arc<CudaStream>,
    module: Arc<CudaModule>,
    _turn: MutexGuard<'static, ()>,
}

fn setup() -> Setup {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    cuda_emulator_loader::set_option("CUDA_EMULATOR_CHECK", Some("all"))
        .unwrap()
        .unwrap();
    cuda_emulator_loader::clear().unwrap();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: the order is the tests' subject.
    unsafe { context.disable_event_tracking() };
    let (a, b) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let module = context.load_module(Ptx::from_src(PTX)).unwrap();
    Setup {
        context,
        a,
        b,
        module,
        _turn: turn,
    }
}

impl Setup {
    /// The kernel `move` in a stream, between cells of two slices.
    fn relay(
        &self,
        stream: &Arc<CudaStream>,
        to: &mut CudaSlice<i32>,
        from: &CudaSlice<i32>,
        cell: usize,
    ) {
        let relay = self.module.load_function("move").unwrap();
        let (mut to, from) = (to.slice_mut(cell..cell + 1), from.slice(cell..cell + 1));
        let mut launch = stream.launch_builder(&relay);
        launch.arg(&mut to).arg(&from);
        let one = LaunchConfig {
            grid_dim: (1, 1, 1),
            block_dim: (1, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments are the kernel's.
        unsafe { launch.launch(one) }.unwrap();
    }

    fn slices(&self) -> [CudaSlice<i32>; 3] {
        let slices = [(); 3].map(|()| self.a.clone_htod(&[1, 2]).unwrap());
        self.context.synchronize().unwrap();
        slices
    }
}

fn races() -> Vec<String> {
    let findings = cuda_emulator_loader::findings().unwrap();
    findings
        .into_iter()
        .filter(|f| f.starts_with(r#"{"kind":"race""#))
        .collect()
}

#[test]
fn a_race_shows_though_the_order_was_right() {
    let s = setup();
    let [x, mut y, mut z] = s.slices();
    s.relay(&s.a, &mut y, &x, 0);
    s.relay(&s.b, &mut z, &y, 0);
    // The producer runs first.
    s.a.synchronize().unwrap();
    assert_eq!(
        s.b.synchronize().unwrap_err().0,
        Code::CUDA_ERROR_LAUNCH_FAILED
    );
    let races = races();
    assert_eq!(races.len(), 1, "{races:?}");
    assert!(
        races[0].contains("kernel move in stream") && races[0].contains("writes"),
        "{races:?}"
    );
}

#[test]
fn events_and_host_waits_order_streams() {
    let s = setup();
    for seed in 0..30 {
        cuda_emulator_loader::set_seed(Some(seed)).unwrap();
        let [x, mut y, mut z] = s.slices();
        s.relay(&s.a, &mut y, &x, 0);
        s.b.join(&s.a).unwrap();
        s.relay(&s.b, &mut z, &y, 0);
        s.a.join(&s.b).unwrap();
        s.relay(&s.a, &mut y, &z, 0);
        s.a.synchronize().unwrap();
        s.relay(&s.b, &mut y, &x, 0);
        assert_eq!(s.b.clone_dtoh(&y).unwrap(), [1, 2]);
    }
    cuda_emulator_loader::set_seed(None).unwrap();
    assert_eq!(races(), [""; 0]);
}

#[test]
fn different_bytes_and_common_reads_do_not_race() {
    let s = setup();
    let [x, mut y, _z] = s.slices();
    s.relay(&s.a, &mut y, &x, 0);
    s.relay(&s.b, &mut y, &x, 1);
    s.context.synchronize().unwrap();
    assert_eq!(s.a.clone_dtoh(&y).unwrap(), [1, 2]);
    assert_eq!(races(), [""; 0]);
}

#[test]
fn copies_and_fills_race_too() {
    let s = setup();
    let [x, mut y, mut z] = s.slices();
    s.a.memcpy_dtod(&x, &mut y).unwrap();
    s.b.memset_zeros(&mut z).unwrap();
    s.context.synchronize().unwrap();
    assert_eq!(races(), [""; 0]);
    s.a.memcpy_dtod(&x, &mut y).unwrap();
    s.b.memset_zeros(&mut y).unwrap();
    assert!(s.context.synchronize().is_err());
    let races = races();
    assert!(
        races.len() == 1 && races[0].contains("a fill in stream"),
        "{races:?}"
    );
}

#[test]
fn nodes_of_a_graph_race_like_streams() {
    for wait in [true, false] {
        let s = setup();
        let [x, mut y, mut z] = s.slices();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        s.a.begin_capture(mode).unwrap();
        s.b.join(&s.a).unwrap();
        s.relay(&s.a, &mut y, &x, 0);
        if wait {
            s.b.join(&s.a).unwrap();
        }
        s.relay(&s.b, &mut z, &y, 0);
        s.a.join(&s.b).unwrap();
        let flags = sys::CUgraphInstantiate_flags(0);
        let graph = s.a.end_capture(flags).unwrap().unwrap();
        for _ in 0..2 {
            graph.launch().unwrap();
        }
        let result = s.a.synchronize();
        if wait {
            result.unwrap();
            assert_eq!(races(), [""; 0]);
        } else {
            assert_eq!(result.unwrap_err().0, Code::CUDA_ERROR_LAUNCH_FAILED);
            let races = races();
            assert!(
                races.len() == 1 && races[0].contains("no edge of the graph"),
                "{races:?}"
            );
        }
    }
}
