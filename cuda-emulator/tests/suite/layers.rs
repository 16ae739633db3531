//! The files of `src/` use each other in one direction: no file uses one that uses it, directly or through others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

/// The library's files by the path of their module: `driver::api::copy`, and nothing for the crate's root.
type Modules = BTreeMap<Vec<String>, String>;

fn modules() -> Modules {
    fn gather(directory: &Path, module: &[String], into: &mut Modules) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let mut inner = module.to_vec();
            match (path.is_dir(), name.as_str()) {
                // The command line is another crate.
                (true, "bin") => continue,
                (false, "lib" | "mod") => {}
                _ => inner.push(name),
            }
            match path.is_dir() {
                true => gather(&path, &inner, into),
                false => _ = into.insert(inner, std::fs::read_to_string(&path).unwrap()),
            }
        }
    }
    let mut all = BTreeMap::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    gather(&source, &[], &mut all);
    all
}

/// Names and the signs between them, without comments, and without the tests at the file's end.
fn tokens(text: &str) -> Vec<&str> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut tokens = Vec::new();
    for line in text.lines() {
        let mut rest = line.split("//").next().unwrap();
        while let Some(first) = rest.chars().next() {
            let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            let end = match name.unwrap_or(rest.len()) {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                end => end,
            };
            let (token, after) = rest.split_at(end);
            if !first.is_whitespace() {
                tokens.push(token);
            }
            rest = after;
        }
    }
    tokens
}

/// Reads the path that goes on at `tokens[*next]` in the module `at`, and adds the modules that it leads to.
fn follow(
    tokens: &[&str],
    next: &mut usize,
    mut at: Vec<String>,
    modules: &Modules,
    used: &mut BTreeSet<Vec<String>>,
) {
    let mut in_module = true;
    loop {
        match tokens[*next] {
            "{" => {
                *next += 1;
                while tokens[*next] != "}" {
                    follow(tokens, next, at.clone(), modules, used);
                    // `as NAME` and the comma.
                    while !["}", ","].contains(&tokens[*next]) {
                        *next += 1;
                    }
                    *next += usize::from(tokens[*next] == ",");
                }
                *next += 1;
                return;
            }
            "super" => _ = at.pop(),
            "self" => {}
            name => {
                let inner = [&at[..], &[name.to_owned()]].concat();
                in_module &= modules.contains_key(&inner);
                if in_module {
                    at = inner;
                }
            }
        }
        *next += 1;
        if tokens[*next] != "::" {
            used.insert(at);
            return;
        }
        *next += 1;
    }
}

/// The modules that a file uses by paths from `crate`, `super` and `self` and, after `use`, from its own modules. Paths that a macro puts
/// together are not followed.
fn used(module: &[String], text: &str, modules: &Modules) -> BTreeSet<Vec<String>> {
    let tokens = tokens(text);
    let mut used = BTreeSet::new();
    let mut next = 0;
    while next + 1 < tokens.len() {
        let inner = [module, &[tokens[next].to_owned()]].concat();
        let own = next > 0 && tokens[next - 1] == "use" && modules.contains_key(&inner);
        let start = match tokens[next] {
            "crate" => Some(Vec::new()),
            "self" => Some(module.to_vec()),
            "super" => Some(module[..module.len() - 1].to_vec()),
            _ if own => Some(inner),
            _ => None,
        };
        next += 1;
        if let Some(start) = start.filter(|_| tokens[next] == "::") {
            next += 1;
            follow(&tokens, &mut next, start, modules, &mut used);
        }
    }
    used.remove(module);
    used
}

/// A cycle that goes through `module`, the shortest one.
fn cycle(
    module: &[String],
    uses: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
) -> Option<Vec<String>> {
    let mut ways: VecDeque<Vec<&[String]>> = VecDeque::from([vec![module]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        for next in &uses[*way.last()?] {
            if next == module {
                let name = |m: &&[String]| ["crate", &m.join("::")].join("::");
                return Some(way.iter().map(name).collect());
            }
            if seen.insert(next) {
                ways.push_back([&way[..], &[next]].concat());
            }
        }
    }
    None
}

#[test]
fn files_use_each_other_in_one_direction() {
    let modules = modules();
    assert!(modules.len() > 80, "{} files were found", modules.len());
    let uses: BTreeMap<_, _> = modules
        .iter()
        .map(|(module, text)| (module.clone(), used(module, text, &modules)))
        .collect();
    let all: usize = uses.values().map(BTreeSet::len).sum();
    assert!(all > 300, "{all} uses were found");
    let cycles: BTreeSet<_> = uses.keys().filter_map(|m| cycle(m, &uses)).collect();
    let lines: Vec<_> = cycles.iter().map(|c| c.join(" uses ")).collect();
    assert!(
        cycles.is_empty(),
        "each of these uses itself in the end:\n{}",
        lines.join("\n")
    );
}
