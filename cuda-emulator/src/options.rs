//! What the environment chooses. Read once by the driver; the command line and tests build it by hand.

/// `CUDA_EMULATOR_CHECK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Check {
    /// Bounds only, so that the host process is safe.
    Off,
    /// Memory and synchronisation.
    #[default]
    Fast,
    /// Everything: races, the use of undefined values, adversarial asynchrony.
    All,
}

/// How launches are executed, checked and counted.
#[derive(Debug, Clone)]
pub struct Options {
    /// `CUDA_EMULATOR_CHECK`: how much is checked.
    pub check: Check,
    /// `CUDA_EMULATOR_SEED`: chooses the interleaving of warps, blocks and streams; `None` is the natural order, in parallel.
    pub seed: Option<u64>,
    /// `CUDA_EMULATOR_COUNT=1`: count (slower).
    pub count: bool,
    /// `CUDA_EMULATOR_MMA=exact|fast`.
    pub exact_mma: bool,
    /// `CUDA_EMULATOR_ASYNC=eager|late`: late is the adversarial mode.
    pub late_async: bool,
    /// `CUDA_EMULATOR_LIMIT`: thread-instructions a launch may execute before it is stopped.
    pub instruction_limit: u64,
    /// `CUDA_EMULATOR_THREADS`; 0 = all cores.
    pub threads: usize,
    /// `CUDA_EMULATOR_APPROX_SEED`: perturb approximate instructions within their documented bound.
    pub approx_seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            check: Check::Fast,
            seed: None,
            count: false,
            exact_mma: true,
            late_async: false,
            instruction_limit: 200_000_000_000,
            threads: 0,
            approx_seed: None,
        }
    }
}

impl Options {
    /// The options that environment variables choose; `get` looks one up by name.
    ///
    /// # Errors
    /// Names the variable, its value and what is allowed.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
            value
                .parse()
                .map_err(|_| format!("{name}={value}: expected a whole number"))
        }
        let one_of = |name: &str, values: &[&str]| match get(name) {
            None => Ok(None),
            Some(v) => match values.iter().position(|&x| x == v) {
                Some(i) => Ok(Some(i)),
                None => Err(format!("{name}={v}: expected {}", values.join(" or "))),
            },
        };
        let mut options = Self::default();
        match one_of("CUDA_EMULATOR_CHECK", &["off", "fast", "all"])? {
            Some(0) => options.check = Check::Off,
            Some(1) => options.check = Check::Fast,
            Some(_) => options.check = Check::All,
            None => {}
        }
        options.late_async = options.check == Check::All;
        if let Some(i) = one_of("CUDA_EMULATOR_ASYNC", &["eager", "late"])? {
            options.late_async = i == 1;
        }
        if let Some(i) = one_of("CUDA_EMULATOR_MMA", &["exact", "fast"])? {
            options.exact_mma = i == 0;
        }
        if let Some(i) = one_of("CUDA_EMULATOR_COUNT", &["0", "1"])? {
            options.count = i == 1;
        }
        for (name, field) in [
            ("CUDA_EMULATOR_SEED", &mut options.seed),
            ("CUDA_EMULATOR_APPROX_SEED", &mut options.approx_seed),
        ] {
            if let Some(v) = get(name) {
                *field = Some(number(name, &v)?);
            }
        }
        if let Some(v) = get("CUDA_EMULATOR_LIMIT") {
            options.instruction_limit = number("CUDA_EMULATOR_LIMIT", &v)?;
        }
        if let Some(v) = get("CUDA_EMULATOR_THREADS") {
            options.threads = number("CUDA_EMULATOR_THREADS", &v)?;
        }
        Ok(options)
    }
}

/// Options that can be set while the program runs.
pub(crate) const CHANGEABLE: [&str; 8] = [
    "CUDA_EMULATOR_CHECK",
    "CUDA_EMULATOR_SEED",
    "CUDA_EMULATOR_COUNT",
    "CUDA_EMULATOR_MMA",
    "CUDA_EMULATOR_ASYNC",
    "CUDA_EMULATOR_LIMIT",
    "CUDA_EMULATOR_THREADS",
    "CUDA_EMULATOR_APPROX_SEED",
];

/// Variables that are read at other places.
const OTHER_VARIABLES: [&str; 5] = [
    "CUDA_EMULATOR_DEVICE",
    "CUDA_EMULATOR_REPORT",
    "CUDA_EMULATOR_COUNTERS",
    "CUDA_EMULATOR_QUIET",
    "CUDA_EMULATOR_LIBRARY",
];

/// Environment variables that look like ours and are none: likely misspelt.
pub(crate) fn unknown_variables() -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let known = |n: &str| CHANGEABLE.contains(&n) || OTHER_VARIABLES.contains(&n);
    names
        .filter(|n| n.starts_with("CUDA_EMULATOR_") && !known(n))
        .collect()
}
