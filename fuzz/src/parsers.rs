//! The emulator's readers of PTX text and of fat binaries, given damaged modules.

use cuda_emulator_damage::{binaries, runs, survive, survive_binary, texts};
use millet_testing::fuzz::Target;

pub(crate) fn targets() -> [Target; 2] {
    let (for_texts, for_binaries) = (runs(), runs());
    [
        Target::new("ptx", texts(), move |damaged| {
            survive(&damaged.text(), &for_texts);
            Ok(())
        }),
        Target::new("fatbin", binaries(), move |damaged| {
            survive_binary(&damaged.bytes(), &for_binaries);
            Ok(())
        }),
    ]
}
