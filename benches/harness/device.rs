//! What a bench needs of a backend beside its operations: how much memory there is, how time passes, what was counted.

use std::time::{Duration, Instant};

use millet::{Cpu, DType, Scalar};
use millet_testing::counters::Launch;
use millet_testing::harness::TestBackend;

use super::{Operation, Result};

pub(crate) trait Device: TestBackend + Clone {
    const NAME: &'static str;
    /// The storage type that runs unless another is chosen.
    const DTYPE: DType;
    /// What [`time`](Self::time) needs of an operation.
    type Lap;

    /// The first device, for a test or to measure; or why there is none.
    fn open(test: bool) -> std::result::Result<Self, String>;

    /// The processor's name, as its maker writes it.
    fn model(&self) -> String;

    /// Whether it counts and has no time.
    fn is_emulated(&self) -> bool {
        false
    }

    /// Bytes that can be allocated.
    fn free_bytes(&self) -> usize;

    /// Bytes of the cache that inputs must not be served from; 0 where that is how it is.
    fn cache_bytes(&self) -> usize {
        0
    }

    /// Clocks and the like, just after a measurement.
    fn conditions(&self) -> Option<String> {
        None
    }

    fn copy<T: Scalar>(&self, from: Self::View<'_, T>, to: Self::ViewMut<'_, T>) -> Result<()>;

    /// Runs the operation once on each set, so that whatever is slow the first time has been, and gets ready to time it.
    fn prepare<S>(&self, sets: &mut [S], operation: &Operation<Self, S>) -> Result<Self::Lap>;

    /// The time of so many iterations, on one set after the other.
    fn time<S>(
        &self,
        lap: &Self::Lap,
        sets: &mut [S],
        operation: &Operation<Self, S>,
        iterations: u64,
    ) -> Result<Duration>;

    /// The counters of what `run` launches, where it is emulated.
    fn count(&self, run: impl FnOnce() -> Result<()>) -> Result<Vec<Launch>>;
}

impl Device for Cpu {
    const NAME: &'static str = "cpu";
    const DTYPE: DType = DType::F32;
    type Lap = ();

    fn open(_test: bool) -> std::result::Result<Self, String> {
        Ok(Self)
    }

    fn model(&self) -> String {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("model name"));
        let name = line.and_then(|line| Some(line.split_once(':')?.1.trim()));
        let threads = rayon::current_num_threads();
        format!("{}, {threads} threads", name.unwrap_or("CPU"))
    }

    fn free_bytes(&self) -> usize {
        let available = || {
            let text = std::fs::read_to_string("/proc/meminfo").ok()?;
            let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
            let kib = line.trim().strip_suffix(" kB")?.parse::<usize>().ok()?;
            Some(1024 * kib)
        };
        available().unwrap_or(64 << 30)
    }

    fn copy<T: Scalar>(&self, from: &[T], to: &mut [T]) -> Result<()> {
        to.copy_from_slice(from);
        Ok(())
    }

    fn prepare<S>(&self, sets: &mut [S], operation: &Operation<Self, S>) -> Result<()> {
        operation.restore_all(self, sets)?;
        sets.iter_mut()
            .try_for_each(|set| (operation.run)(self, set))
    }

    fn time<S>(
        &self,
        _lap: &(),
        sets: &mut [S],
        operation: &Operation<Self, S>,
        iterations: u64,
    ) -> Result<Duration> {
        let mut total = Duration::ZERO;
        for iteration in 0..iterations as usize {
            let turn = iteration % sets.len();
            operation.restore_all(self, &mut sets[turn..=turn])?;
            let start = Instant::now();
            (operation.run)(self, &mut sets[turn])?;
            total += start.elapsed();
        }
        Ok(total)
    }

    fn count(&self, _run: impl FnOnce() -> Result<()>) -> Result<Vec<Launch>> {
        Err("a CPU counts nothing".into())
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::process::Command;

    use cuda_emulator_loader as loader;
    use millet::cuda::View;
    use millet::cudarc::driver::sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE;
    use millet::cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
    use millet::cudarc::driver::sys::CUgraphInstantiate_flags;
    use millet::cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    use millet::cudarc::driver::{
        CudaContext, CudaGraph, CudaViewMut, DevicePtrMut, Profiler, result,
    };
    use millet::{Cuda, Memory};

    use super::*;

    impl Device for Cuda {
        const NAME: &'static str = "cuda";
        const DTYPE: DType = DType::BF16;
        /// The operation on each set, one after the other.
        type Lap = CudaGraph;

        fn open(test: bool) -> std::result::Result<Self, String> {
            // Says why, where there is no driver.
            Self::device(0).map_err(|error| error.to_string())?;
            let open = || -> Result<Self> {
                let context = CudaContext::new(0)?;
                // SAFETY: everything here is in one stream.
                unsafe { context.disable_event_tracking() };
                Ok(Self::new(&context.new_stream()?)?)
            };
            let cuda = open().map_err(|error| error.to_string())?;
            if cuda.is_emulated() && !test {
                for (option, value) in [
                    ("CUDA_EMULATOR_MMA", "fast"),
                    ("CUDA_EMULATOR_CHECK", "off"),
                ] {
                    option_of_the_emulator(option, Some(value))
                        .map_err(|error| error.to_string())?;
                }
            }
            println!(
                "cuda: {}{}",
                cuda.model(),
                cuda.conditions()
                    .map_or(String::new(), |c| format!(", {c}"))
            );
            Ok(cuda)
        }

        fn model(&self) -> String {
            let name = self.stream().context().name();
            name.unwrap_or_else(|error| panic!("cuda: no name: {error}"))
        }

        fn is_emulated(&self) -> bool {
            loader::is_emulated()
        }

        fn free_bytes(&self) -> usize {
            let bound = self.stream().context().bind_to_thread();
            bound
                .and_then(|()| result::mem_get_info())
                .map_or(0, |(free, _)| free)
        }

        fn cache_bytes(&self) -> usize {
            let size = self
                .stream()
                .context()
                .attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
            size.map_or(0, |bytes| bytes as usize)
        }

        fn conditions(&self) -> Option<String> {
            if self.is_emulated() {
                return None;
            }
            const WHAT: &str =
                "--query-gpu=driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu";
            let output = Command::new("nvidia-smi")
                .args([WHAT, "--format=csv,noheader", "--id=0"])
                .output()
                .ok()?;
            let text = String::from_utf8(output.stdout).ok()?;
            let values: Vec<&str> = text.trim().split(", ").collect();
            let [driver, sm, memory, power, temperature] = values[..] else {
                return None;
            };
            Some(format!(
                "driver {driver}, clocks {sm} (SM) and {memory} (memory), {power}, {temperature} °C"
            ))
        }

        fn copy<T: Scalar>(&self, from: View<'_, T>, mut to: CudaViewMut<'_, T>) -> Result<()> {
            let stream = self.stream();
            stream.context().bind_to_thread()?;
            let bytes = from.len() * size_of::<T>();
            assert_eq!(from.len(), Self::len_mut(&to));
            let (from, _read) = from.address(stream);
            let (to, _written) = to.device_ptr_mut(stream);
            // SAFETY: both are views of as many elements, and the stream is that of everything here.
            unsafe { result::memcpy_dtod_async(to, from, bytes, stream.cu_stream()) }?;
            Ok(())
        }

        fn prepare<S>(&self, sets: &mut [S], operation: &Operation<Self, S>) -> Result<CudaGraph> {
            operation.restore_all(self, sets)?;
            let all = |sets: &mut [S]| {
                sets.iter_mut()
                    .try_for_each(|set| (operation.run)(self, set))
            };
            {
                // What `ncu --profile-from-start off` looks at. Elsewhere it does nothing.
                let _profiled = Profiler::new()?;
                all(sets)?;
                self.stream().synchronize()?;
            }
            // What the host notes of an operation, too, is as before it.
            operation.restore_all(self, sets)?;
            let stream = self.stream();
            stream.begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
            let captured = all(sets);
            let graph = stream.end_capture(CUgraphInstantiate_flags(0))?;
            captured?;
            let graph = graph.ok_or("nothing was captured")?;
            graph.upload()?;
            stream.synchronize()?;
            Ok(graph)
        }

        /// Events around laps that follow each other without a gap; around each lap where inputs must be put back before it.
        fn time<S>(
            &self,
            lap: &CudaGraph,
            sets: &mut [S],
            operation: &Operation<Self, S>,
            iterations: u64,
        ) -> Result<Duration> {
            let stream = self.stream();
            let laps = iterations.div_ceil(sets.len() as u64);
            let (turns, laps_a_turn) = match operation.restore {
                Some(_) => (laps, 1),
                None => (1, laps),
            };
            let mut milliseconds = 0.0;
            for _ in 0..turns {
                operation.restore_all(self, sets)?;
                let start = stream.record_event(Some(CU_EVENT_DEFAULT))?;
                for _ in 0..laps_a_turn {
                    lap.launch()?;
                }
                let end = stream.record_event(Some(CU_EVENT_DEFAULT))?;
                milliseconds += f64::from(start.elapsed_ms(&end)?);
            }
            let timed = (laps * sets.len() as u64) as f64;
            Ok(Duration::from_secs_f64(
                milliseconds / 1e3 * iterations as f64 / timed,
            ))
        }

        fn count(&self, run: impl FnOnce() -> Result<()>) -> Result<Vec<Launch>> {
            self.stream().synchronize()?;
            option_of_the_emulator("CUDA_EMULATOR_COUNT", Some("1"))?;
            loader::clear();
            run()?;
            self.stream().synchronize()?;
            let lines = loader::counters().ok_or(NOT_EMULATED)?;
            option_of_the_emulator("CUDA_EMULATOR_COUNT", None)?;
            Ok(lines.into_iter().map(Launch::new).collect())
        }
    }

    const NOT_EMULATED: &str = "only the emulator counts";

    fn option_of_the_emulator(name: &str, value: Option<&str>) -> Result<()> {
        loader::set_option(name, value).ok_or(NOT_EMULATED)??;
        Ok(())
    }
}
