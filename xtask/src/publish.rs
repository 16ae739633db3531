//! What would be published, as a part of `cargo xtask check`: the packages build by themselves, have their licences, and their
//! READMEs can be read on a registry's page.

use std::fs;
use std::path::Path;

use super::{cargo, run, target_directory};

/// Packages and their folders; all other members have `publish = false`.
const PACKAGES: [(&str, &str); 3] = [
    ("cuda-emulator", "cuda-emulator"),
    ("cuda-emulator-loader", "cuda-emulator/loader"),
    ("millet", "."),
];

/// What every package must have.
const NEEDED: [&str; 3] = ["README.md", "LICENSE-MIT", "LICENSE-APACHE"];

pub(super) fn check() -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let root = root.ok_or("no workspace")?;
    for (package, folder) in PACKAGES {
        let readme = root.join(folder).join("README.md");
        let text = fs::read_to_string(&readme)
            .map_err(|error| format!("{}: {error}", readme.display()))?;
        check_package(&text, &files(package)?).map_err(|error| format!("{package}: {error}"))?;
    }
    // Builds each package from what would be uploaded. In a folder of its own: the emulator's library has one name in every build,
    // and the tests want that of the workspace.
    run(cargo()
        .args([
            "publish",
            "--quiet",
            "--workspace",
            "--dry-run",
            "--allow-dirty",
            "--target-dir",
        ])
        .arg(target_directory()?.join("publish")))
}

/// The files of a package, by their paths in it.
fn files(package: &str) -> Result<Vec<String>, String> {
    let mut command = cargo();
    command.args([
        "package",
        "--quiet",
        "--list",
        "--allow-dirty",
        "--package",
        package,
    ]);
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}\n{reason}", output.status));
    }
    let list = String::from_utf8_lossy(&output.stdout);
    Ok(list.lines().map(|line| line.replace('\\', "/")).collect())
}

/// A registry's page shows a relative link as its text alone, so the text must say which file is meant, and the package must
/// have that file.
fn check_package(readme: &str, files: &[String]) -> Result<(), String> {
    let has = |file: &str| files.iter().any(|f| f == file);
    if let Some(file) = NEEDED.iter().find(|file| !has(file)) {
        return Err(format!("the package has no {file}"));
    }
    for (text, target) in links(readme) {
        let is_relative = !target.starts_with('#') && !target.contains("://");
        if is_relative && !has(target) {
            return Err(format!(
                "README.md links to {target}, which is not in the package"
            ));
        }
        if is_relative && text != target {
            return Err(format!(
                "README.md: a registry's page shows [{text}]({target}) as `{text}`; expected [{target}]({target})"
            ));
        }
    }
    Ok(())
}

/// Text and target of each link `[text](target)`, without those in blocks of code.
fn links(markdown: &str) -> Vec<(&str, &str)> {
    let prose = markdown.split("```").step_by(2);
    prose
        .flat_map(|prose| {
            prose.match_indices("](").filter_map(move |(middle, _)| {
                let (_, text) = prose[..middle].rsplit_once('[')?;
                let (target, _) = prose[middle + 2..].split_once(')')?;
                Some((text, target))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::check_package;

    fn check(readme: &str, more: &[&str]) -> Result<(), String> {
        let files = super::NEEDED.iter().chain(more);
        check_package(readme, &files.map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn links_that_a_registry_can_show() {
        let readme = "See [docs/a.md](docs/a.md), [it](https://example.org), [below](#limits).\n\
                      ```rust\nlist[0](1)\n```\n";
        assert_eq!(check(readme, &["docs/a.md"]), Ok(()));
    }

    #[test]
    fn links_that_a_registry_cannot_show() {
        let outside = check("See [docs/a.md](docs/a.md).", &[]).unwrap_err();
        assert!(
            outside.contains("docs/a.md, which is not in the package"),
            "{outside}"
        );
        let nameless = check("```sh\n```\nSee [this](docs/a.md).", &["docs/a.md"]).unwrap_err();
        assert!(
            nameless.contains("expected [docs/a.md](docs/a.md)"),
            "{nameless}"
        );
    }

    #[test]
    fn a_package_without_a_licence() {
        let files = ["README.md".to_owned(), "LICENSE-MIT".to_owned()];
        let error = check_package("", &files).unwrap_err();
        assert_eq!(error, "the package has no LICENSE-APACHE");
    }
}
