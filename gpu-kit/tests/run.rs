//! `run.sh` with steps that do as a card's might: end, fail, hang, or be in the way of a Ctrl-C. The real ones run in `cargo xtask test`.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A kit of its own steps, with a program that says it is emulated.
struct Kit {
    folder: PathBuf,
}

impl Kit {
    fn new(name: &str, steps: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("kit/bin")).unwrap();
        let kit = Self { folder };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("run.sh");
        fs::copy(script, kit.path("kit/run.sh")).unwrap();
        kit.write("kit/steps.txt", steps);
        kit.write("kit/emulated.txt", "a100");
        kit.program("#!/bin/sh\ncase $1 in driver) echo 'emulated, as a test' ;; table) echo 'the table' ;; esac\n");
        kit
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn program(&self, text: &str) {
        let path = self.path("kit/bin/kit");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn start(&self, arguments: &[&str]) -> Child {
        Command::new("bash")
            .arg(self.path("kit/run.sh"))
            .args(arguments)
            .current_dir(&self.folder)
            .env("TMPDIR", &self.folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.start(arguments).wait_with_output().unwrap()
    }

    /// Status and note of a step.
    fn step(&self, name: &str) -> (String, String) {
        let steps = self.read("out/steps.tsv");
        let line = steps
            .lines()
            .find(|line| line.starts_with(&format!("{name}\t")));
        let fields: Vec<&str> = line
            .unwrap_or_else(|| panic!("{name}: {steps}"))
            .split('\t')
            .collect();
        (fields[1].into(), fields[3].into())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const FULL: [&str; 3] = ["out", "--minutes", "1"];

#[test]
fn each_step_ends_as_it_does_and_leaves_what_it_found() {
    let kit = Kit::new(
        "ends",
        r#"
# a comment
good    | 1 | 1 | echo '{"n":1}' >>"$KIT_RECORD"; printf '{"n":' >>"$KIT_RECORD"; echo found 3
bad     | 1 | 1 | echo '{"n":2}' >>"$KIT_RECORD"; echo because; exit 7
absent  | 1 | 1 | echo no torch here; exit 3
gpu     | 1 | - | echo never
late    | 1 | 900 | echo never
after   | 1 | 1 | echo "$KIT_EMULATED $KIT_PYTHON."
"#,
    );
    let output = kit.run(&FULL);
    let table = text(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{table}{}",
        text(&output.stderr)
    );
    for (name, status, note) in [
        ("good", "done", "found 3"),
        ("bad", "failed", "status 7: because"),
        ("absent", "skipped", "no torch here"),
        ("gpu", "skipped", "not on the emulator"),
        ("after", "done", "1 ."),
    ] {
        assert_eq!(kit.step(name), (status.into(), note.into()));
        assert!(
            table
                .lines()
                .any(|line| line.starts_with(name) && line.contains(status)),
            "{table}"
        );
    }
    assert_eq!(kit.step("late").0, "no time");
    assert!(table.trim_end().ends_with("the table"), "{table}");
    let records: Vec<String> = kit
        .read("out/kit.jsonl")
        .lines()
        .map(String::from)
        .collect();
    let seconds = |line: &str| line.split(",\"seconds\"").next().unwrap().to_owned();
    let records: Vec<String> = records.iter().map(|line| seconds(line)).collect();
    let step = |name: &str, status: &str| {
        format!(r#"{{"kind":"step","step":"{name}","status":"{status}""#)
    };
    let expected = [
        step("good", "done"),
        r#"{"n":1}"#.into(),
        step("bad", "failed"),
        r#"{"n":2}"#.into(),
        step("absent", "skipped"),
        step("after", "done"),
    ];
    assert_eq!(records, expected);
    assert!(kit.read("out/log.txt").contains("because"));
    // Nothing of the scratch folder is left.
    let left = fs::read_dir(&kit.folder).unwrap().flatten();
    let left: Vec<_> = left
        .filter(|file| file.file_name().to_string_lossy().starts_with("gpu-kit."))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_second_run_goes_on() {
    let kit = Kit::new(
        "goes-on",
        r#"
once  | 1 | 1  | echo once >>"$KIT/ran"
fails | 1 | 1  | echo fails >>"$KIT/ran"; exit 1
long  | 1 | 50 | echo long >>"$KIT/ran"
"#,
    );
    kit.run(&["out", "--minutes", "0.5"]);
    assert_eq!(kit.step("long").0, "no time");
    assert_eq!(kit.read("kit/ran"), "once\nfails\n");
    kit.run(&FULL);
    assert_eq!(kit.read("kit/ran"), "once\nfails\nlong\n");
    kit.run(&[&FULL[..], &["--again", "fails"]].concat());
    assert_eq!(kit.read("kit/ran"), "once\nfails\nlong\nfails\n");
    kit.run(&[&FULL[..], &["--again", "all"]].concat());
    assert_eq!(
        kit.read("kit/ran"),
        "once\nfails\nlong\nfails\nonce\nfails\nlong\n"
    );
}

#[test]
fn a_step_that_hangs_is_ended_and_the_next_one_runs() {
    // Its children ignore what can be ignored.
    let kit = Kit::new(
        "hangs",
        "hangs | 1 | 1 | (trap '' TERM; sleep 300)\nnext | 0 | 0 | echo here\n",
    );
    let start = Instant::now();
    let output = kit.run(&["out", "--minutes", "0.5"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        kit.step("hangs"),
        ("hung".into(), "ended after 11 s".into())
    );
    assert_eq!(kit.step("next").0, "done");
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn an_interrupt_ends_the_step_and_keeps_what_there_is() {
    let kit = Kit::new(
        "interrupt",
        r#"
first | 1 | 1  | echo first
long  | 1 | 50 | echo $$ >"$KIT/pid"; echo '{"n":1}' >>"$KIT_RECORD"; sleep 300
"#,
    );
    let child = kit.start(&FULL);
    let since = Instant::now();
    while !kit.path("kit/pid").exists() || kit.read("kit/pid").is_empty() {
        assert!(
            since.elapsed() < Duration::from_secs(20),
            "the step did not begin"
        );
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(200));
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert_eq!(kit.step("first").0, "done");
    assert_eq!(kit.step("long").0, "interrupted");
    assert!(kit.read("out/kit.jsonl").ends_with("{\"n\":1}\n"));
    assert!(kit.read("out/table.txt").contains("interrupted"));
    let step = PathBuf::from("/proc").join(kit.read("kit/pid").trim());
    assert!(!step.exists(), "the step goes on");
    // And is run again.
    kit.write("kit/steps.txt", "long | 1 | 1 | echo again\n");
    kit.run(&FULL);
    assert_eq!(kit.step("long"), ("done".into(), "again".into()));
}

#[test]
fn wrong_arguments_and_machines_take_a_line() {
    let kit = Kit::new("wrong", "one | 1 | 1 | echo one\n");
    let refused = |arguments: &[&str], named: &str| {
        let output = kit.run(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(
            error.contains(named) && error.lines().count() == 1,
            "{arguments:?}: {error}"
        );
    };
    refused(&[], "a folder");
    refused(&["out"], "--minutes");
    refused(&["out", "--minutes"], "--minutes");
    refused(&["out", "--minutes", "five"], "'five'");
    refused(&["out", "--minutes", "-1"], "'-1'");
    refused(&["out", "other", "--minutes", "1"], "other");
    refused(&["out", "--minutes", "1", "--fast"], "--fast");
    refused(&["out", "--minutes", "1", "--again", "two"], "'two'");
    kit.write("kit/glibc.txt", "99.1");
    refused(&FULL, "glibc 99.1");
    kit.write("kit/glibc.txt", "2.2");
    kit.program("#!/bin/sh\nexit 1\n");
    let output = kit.run(&FULL);
    assert!(text(&output.stderr).contains("no driver"));
    assert_eq!(output.status.code(), Some(2));
}

/// As `cargo xtask gpu-kit` packs programs.
#[test]
fn programs_are_put_together_from_their_parts() {
    let kit = Kit::new("parts", "one | 1 | 1 | greet\n");
    let program = kit.read("kit/bin/kit");
    fs::remove_dir_all(kit.path("kit/bin")).unwrap();
    // The middle of one program is in a part that both have.
    let (shared, head, tail) = ("echo shared\n", "#!/bin/sh\n", "echo tail\n");
    let parts = [shared, head, tail, &program].concat();
    kit.write("parts", &parts);
    let at = |text: &str| format!("{}:{}", parts.find(text).unwrap(), text.len());
    let list = format!(
        "greet {} {} {}\nkit {}\n",
        at(head),
        at(shared),
        at(tail),
        format_args!("{}:{}", parts.len() - program.len(), program.len())
    );
    kit.write("kit/programs.txt", &list);
    kit.write("greet", &[head, shared, tail].concat());
    kit.write("program", &program);
    let script = "gzip -c parts >kit/parts.gz && sed 's/program$/kit/' <(sha256sum -b greet program) >kit/sums.txt";
    let packed = Command::new("bash")
        .args(["-c", script])
        .current_dir(&kit.folder)
        .status();
    assert!(packed.unwrap().success());
    let output = kit.run(&FULL);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(kit.step("one"), ("done".into(), "tail".into()));
    assert!(kit.read("out/log.txt").contains("shared\ntail"));
    // One byte less of a program is noticed.
    kit.write("kit/programs.txt", &list.replace(":10 ", ":9 "));
    let output = kit.run(&FULL);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("damaged"));
}
