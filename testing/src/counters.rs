//! What the CUDA emulator counted for a launch, read from the line that it gives for each.

/// Counters of one launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch(String);

impl Launch {
    /// Takes one of the emulator's lines: a JSON object without nested objects.
    pub fn new(line: impl Into<String>) -> Self {
        Self(line.into())
    }

    /// The line.
    pub fn line(&self) -> &str {
        &self.0
    }

    /// The kernel's name.
    ///
    /// # Panics
    /// When the line has none.
    pub fn kernel(&self) -> &str {
        let rest = self.after("kernel").strip_prefix('"');
        let end = |rest: &str| rest.find('"');
        rest.and_then(|rest| Some(&rest[..end(rest)?]))
            .unwrap_or_else(|| panic!("no name in {}", self.0))
    }

    /// A counter by its name.
    ///
    /// # Panics
    /// When the line has no such counter: a name that is misspelt is not a 0.
    pub fn count(&self, counter: &str) -> f64 {
        let rest = self.after(counter);
        let end = rest.find(|c: char| !c.is_ascii_digit());
        let digits = &rest[..end.unwrap_or(rest.len())];
        digits
            .parse()
            .unwrap_or_else(|_| panic!("{counter} is no number in {}", self.0))
    }

    /// Bytes from and to memory behind the emulator's model of the L2 cache: what misses it, and what is stored for the first time.
    /// What a kernel stores over what it has read is not among them.
    pub fn memory_bytes(&self) -> f64 {
        32.0 * self.count("l2_sector_misses") + self.count("first_written_bytes")
    }

    /// Bytes that it touched, each counted once: what no cache can save.
    pub fn touched_bytes(&self) -> f64 {
        self.count("first_read_bytes") + self.count("first_written_bytes")
    }

    fn after(&self, name: &str) -> &str {
        let key = format!("\"{name}\":");
        match self.0.split_once(&key) {
            Some((_, rest)) => rest,
            None => panic!("no {name} in {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"kernel":"experts_up_bf16","grid":[2,1,1],"l2_sector_misses":3,"first_written_bytes":40,"last":7}"#;

    #[test]
    fn a_line_is_read() {
        let launch = Launch::new(LINE);
        assert_eq!(launch.kernel(), "experts_up_bf16");
        assert_eq!(launch.count("l2_sector_misses"), 3.0);
        assert_eq!(launch.count("last"), 7.0);
        assert_eq!(launch.memory_bytes(), 3.0 * 32.0 + 40.0);
    }

    #[test]
    #[should_panic(expected = "no sector_misses in")]
    fn a_misspelt_counter_is_no_zero() {
        Launch::new(LINE).count("sector_misses");
    }
}
