//! The subcommands that need no cluster: they read files and print.
//!
//! What is found goes to standard error, one finding a line in the form of compilers (`FILE:LINE:COLUMN: error: ...`);
//! what was asked for goes to standard output. The exit code is for scripts: 0 good, 1 refused, 2 not readable.

use std::io::Read;
use std::process::ExitCode;

use clap::Args;
use herald_config::{Checked, File};

use crate::print;

/// A cluster's whole configuration is far below it.
const MAX_FILE_BYTES: u64 = 64 << 20;
pub(crate) const REFUSED: u8 = 1;
pub(crate) const UNREADABLE: u8 = 2;

/// `herald check` and `herald migrate`.
#[derive(Debug, Args)]
pub(crate) struct FileFlags {
    /// YAML files, judged together; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
}

impl FileFlags {
    fn read(&self) -> Result<Vec<File>, ExitCode> {
        let read = |name: &String| {
            read(name).map(|text| File { name: name.clone(), text }).map_err(|error| {
                eprintln!("{name}: {error}");
                ExitCode::from(UNREADABLE)
            })
        };
        self.files.iter().map(read).collect()
    }
}

/// A file, or `-` for standard input; bounded.
pub(crate) fn read(name: &str) -> std::io::Result<String> {
    let mut text = String::new();
    let length = match name {
        "-" => std::io::stdin().lock().take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?,
        path => std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?,
    };
    if length as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

/// All definitions, one document each.
pub(crate) fn crds() -> ExitCode {
    for definition in herald_config::definitions() {
        print(&format!("---\n{}", herald_config::to_yaml(&definition)));
    }
    ExitCode::SUCCESS
}

/// Tells all that is wrong or odd.
pub(crate) fn check(flags: &FileFlags) -> ExitCode {
    let files = match flags.read() {
        Ok(files) => files,
        Err(code) => return code,
    };
    let checked = herald_config::check(&files);
    tell(&checked);
    let Checked { objects, documents, others, .. } = checked;
    let errors = checked.findings.iter().filter(|finding| finding.error).count();
    let warnings = checked.findings.len() - errors;
    print(&format!(
        "errors: {errors}, warnings: {warnings} (objects of metallb.io: {objects}, ConfigMaps: {documents}, others, not \
         looked at: {others})\n"
    ));
    if objects + documents == 0 && !checked.refused() {
        eprintln!("there is nothing to check: name files with objects of metallb.io, or with a ConfigMap");
        return ExitCode::from(UNREADABLE);
    }
    code(&checked)
}

/// Prints the objects; nothing if the document would be refused.
pub(crate) fn migrate(flags: &FileFlags) -> ExitCode {
    let files = match flags.read() {
        Ok(files) => files,
        Err(code) => return code,
    };
    let checked = herald_config::check(&files);
    if checked.refused() {
        tell(&checked);
        return code(&checked);
    }
    match herald_config::migrate_files(&files) {
        Ok(migrated) => {
            print(&migrated.to_yaml());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(REFUSED)
        }
    }
}

fn tell(checked: &Checked) {
    for finding in &checked.findings {
        eprintln!("{finding}");
    }
}

fn code(checked: &Checked) -> ExitCode {
    if checked.refused() { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS }
}
