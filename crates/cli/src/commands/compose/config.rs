//! `compose config` and `compose version`.

use clap::Args;
use serde_json::Value;

use super::{Files, services};
use crate::commands::Outcome;
use crate::error::{Error, Result};
use crate::output::{note, print, print_line};
use berth_compose::{Project, show};

#[derive(Debug, Args)]
pub struct Config {
    /// yaml or json
    #[arg(long, default_value = "yaml", value_parser = ["yaml", "json"])]
    format: String,
    /// Names of services, one a line
    #[arg(long)]
    services: bool,
    /// Names of volumes, one a line
    #[arg(long)]
    volumes: bool,
    /// Names of networks, one a line
    #[arg(long)]
    networks: bool,
    /// Images, one a line
    #[arg(long)]
    images: bool,
    /// Profiles, one a line
    #[arg(long)]
    profiles: bool,
    /// Hashes of these services, or of all: *
    #[arg(long, value_name = "SERVICES")]
    hash: Option<String>,
    /// Show nothing: only whether the files are right
    #[arg(short, long)]
    quiet: bool,
    /// Leave variables as they are written
    #[arg(long)]
    no_interpolate: bool,
    /// Write to this file
    #[arg(short, long, value_name = "FILE")]
    output: Option<std::path::PathBuf>,
    /// Only these, and what they wait for
    #[arg(value_name = "SERVICES")]
    names: Vec<String>,
}

impl Config {
    pub fn run(self, files: &Files) -> Outcome {
        let mut options = files.options()?;
        options.no_interpolation = self.no_interpolate;
        let whole = Project::load(&options)?;
        for warning in &whole.warnings {
            note(&format!("berth: {warning}"));
        }
        let project = match self.names.is_empty() {
            true => whole,
            false => whole.select(&self.names, true)?,
        };
        if self.quiet {
            return Ok(0);
        }
        if let Some(lines) = self.lines(&project)? {
            lines.iter().try_for_each(|line| print_line(line))?;
            return Ok(0);
        }
        let value = project.value();
        let text = match self.format.as_str() {
            "json" => format!(
                "{}\n",
                serde_json::to_string_pretty(&value).map_err(Error::Answer)?
            ),
            _ => show::yaml(&value),
        };
        match &self.output {
            Some(path) => std::fs::write(path, text).map_err(Error::file("writing", path))?,
            None => print(&text)?,
        }
        Ok(0)
    }

    fn lines(&self, project: &Project) -> Result<Option<Vec<String>>> {
        if let Some(which) = &self.hash {
            let names: Vec<String> = match which.as_str() {
                "*" => Vec::new(),
                which => which.split(',').map(str::to_owned).collect(),
            };
            let all = services(project, &names)?;
            let line =
                |service: &&berth_compose::Service| format!("{} {}", service.name, service.hash());
            return Ok(Some(all.iter().map(line).collect()));
        }
        let all = project.services.values();
        let mut lines: Vec<String> = if self.services {
            project.order()?
        } else if self.volumes {
            project.volumes.keys().cloned().collect()
        } else if self.networks {
            project.networks.keys().cloned().collect()
        } else if self.images {
            all.map(|service| service.image(&project.name)).collect()
        } else if self.profiles {
            let all = all.chain(project.disabled.values());
            let names = all.flat_map(|service| service.profiles());
            names.map(str::to_owned).collect()
        } else {
            return Ok(None);
        };
        if !self.services {
            lines.sort();
            lines.dedup();
        }
        Ok(Some(lines))
    }
}

#[derive(Debug, Args)]
pub struct Version {
    /// The number alone
    #[arg(long)]
    short: bool,
    /// pretty or json
    #[arg(long, default_value = "pretty", value_parser = ["pretty", "json"])]
    format: String,
}

impl Version {
    pub fn run(self) -> Outcome {
        let version = env!("CARGO_PKG_VERSION");
        print_line(&match (self.short, self.format.as_str()) {
            (true, _) => version.to_owned(),
            (_, "json") => Value::from_iter([("version", version)]).to_string(),
            _ => format!("Berth Compose version {version}"),
        })?;
        Ok(0)
    }
}
