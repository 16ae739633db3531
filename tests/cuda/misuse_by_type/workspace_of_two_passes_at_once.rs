// E0499
use millet::{Cuda, Workspace};

/// Two threads, each with a stream of its own.
pub fn f(workspace: &mut Workspace<Cuda, f32>, pass: fn(&mut Workspace<Cuda, f32>)) {
    std::thread::scope(|scope| {
        #[cfg(misuse)]
        scope.spawn(|| pass(workspace));
        scope.spawn(|| pass(workspace));
    });
}
