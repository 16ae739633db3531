//! How much memory there is: what does not fit is refused with a message, before the system ends the program.

const GIB: f64 = (1u64 << 30) as f64;

/// Refuses what needs more bytes than the system says it can give, or than 64 GiB where it does not say.
///
/// # Errors
/// When there is not enough: how much there is, and how much is needed.
pub fn check(needed: f64) -> Result<(), String> {
    let available = available().unwrap_or(64.0 * GIB);
    if needed <= available {
        return Ok(());
    }
    let (needed, available) = (needed / GIB, available / GIB);
    Err(format!(
        "about {needed:.1} GiB of memory are needed, but {available:.1} GiB are available"
    ))
}

fn available() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(1024.0 * line.trim().strip_suffix(" kB")?.parse::<f64>().ok()?)
}
