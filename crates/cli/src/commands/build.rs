//! `build`.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, push};
use crate::build::{self, Caches, Context, Lent, Output, Several, Show, Wanted};
use crate::daemon::{Call, Client};
use crate::error::{Error, Result};
use crate::options::{BuildLimits, labels};
use crate::output::{Progress, note, print_line};

#[derive(Debug, Args)]
pub struct Build {
    /// A name for the image, as in team/app:1
    #[arg(short, long, value_name = "NAME")]
    tag: Vec<String>,
    /// The Dockerfile, in the directory or elsewhere; - for standard input
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true)]
    file: Option<String>,
    /// name=value of an ARG, or name for this shell's value
    #[arg(long, value_name = "ARGUMENT")]
    build_arg: Vec<String>,
    /// The stage to build, in place of the last
    #[arg(
        long,
        value_name = "STAGE",
        default_value = "",
        hide_default_value = true
    )]
    target: String,
    /// name=value
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// Do everything anew
    #[arg(long)]
    no_cache: bool,
    /// Ask registries for newer images
    #[arg(long)]
    pull: bool,
    /// What to build for, as in linux/arm64; several with commas, for --push or -o type=oci
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    platform: Vec<String>,
    /// Write the image's id to this file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write what was built to this file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Send the image to its registries afterwards
    #[arg(long)]
    push: bool,
    /// How it is shown, on standard error
    #[arg(long, value_enum, value_name = "KIND", default_value = "auto")]
    progress: Show,
    /// Only the image's id
    #[arg(short, long)]
    quiet: bool,
    /// What it leaves: DIRECTORY, - for a tar archive of its files, or type=oci|docker|tar|local|image
    /// with dest=PATH
    #[arg(short, long, value_name = "OUTPUT", allow_hyphen_values = true)]
    output: Vec<String>,
    /// For RUN --mount=type=secret: id=NAME,src=FILE or id=NAME,env=VARIABLE
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// For RUN --mount=type=ssh: default, or NAME=SOCKET
    #[arg(long, value_name = "AGENT")]
    ssh: Vec<String>,
    /// A cache to take steps from: a reference, or type=registry|local with ref=REFERENCE or
    /// src=DIRECTORY
    #[arg(long, value_name = "CACHE")]
    cache_from: Vec<String>,
    /// A cache to leave: type=registry|local|inline with ref=REFERENCE or dest=DIRECTORY, mode=min|max
    #[arg(long, value_name = "CACHE")]
    cache_to: Vec<String>,
    /// Say how the image was made, where it is pushed: true, mode=min or mode=max
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    provenance: Option<String>,
    /// Say what packages the image has, where it is pushed
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sbom: Option<String>,
    /// The same as type=provenance[,mode=max] or type=sbom
    #[arg(long, value_name = "ATTESTATION")]
    attest: Vec<String>,
    #[command(flatten)]
    limits: BuildLimits,

    /// Accepted, as it is what happens anyway
    #[arg(long, hide = true)]
    rm: Option<Option<bool>>,
    #[arg(long, hide = true)]
    force_rm: bool,
    #[arg(long, hide = true)]
    load: bool,
    #[arg(long, hide = true, value_name = "NAME")]
    builder: Option<String>,

    /// The directory whose files may be copied; - for an archive or a Dockerfile on standard input; or
    /// a git repository, as in https://host/x.git#branch:directory
    #[arg(value_name = "DIRECTORY", allow_hyphen_values = true)]
    context: String,
}

impl Build {
    /// The one that it was asked for.
    pub fn builder(&self) -> Option<&str> {
        self.builder.as_deref()
    }

    pub async fn run(self, client: &Client) -> Outcome {
        let show = match self.quiet {
            true => Show::Quiet,
            false => self.progress,
        };
        // What tells of an earlier build is not to be taken for this one's.
        for path in [&self.iidfile, &self.metadata_file].into_iter().flatten() {
            let _absent = std::fs::remove_file(path);
        }
        let (iidfile, metadata_file) = (self.iidfile.clone(), self.metadata_file.clone());
        let outputs: Result<Vec<Output>> =
            self.output.iter().map(|text| Output::parse(text)).collect();
        let outputs = outputs?;
        outputs.iter().try_for_each(Output::check)?;
        let is_pushed = self.push || outputs.iter().any(|output| output.is_pushed);
        let several = Several::of(&self.platform)?;
        if let Some(several) = &several {
            several.check(&outputs, is_pushed, self.iidfile.is_some())?;
        }
        let mut wanted = self.wanted()?;
        if !wanted.attestations.is_empty() {
            for what in outputs.iter().filter_map(Output::without_attestations) {
                note(&format!(
                    "berth: {what} holds no attestations: pushed images do, and type=oci"
                ));
            }
        }
        wanted
            .tags
            .extend(outputs.iter().flat_map(|output| output.names.clone()));
        wanted.is_passing =
            !outputs.is_empty() && wanted.tags.is_empty() && !outputs.iter().any(Output::is_image);
        if is_pushed && wanted.tags.is_empty() {
            return Err(Error::usage(
                "an image without a name cannot be pushed: --tag NAME",
            ));
        }
        if let Some(several) = several {
            let tags = wanted.tags.clone();
            let built = several.build(client, wanted, show).await?;
            for output in &outputs {
                output.write_several(client, &built, &tags).await?;
            }
            if is_pushed {
                for name in &tags {
                    push(client, push::index_call(name, &built)?, show).await?;
                }
            }
            if let Some(path) = metadata_file {
                let metadata = build::metadata_of_index(client, &tags, is_pushed).await?;
                std::fs::write(&path, metadata).map_err(Error::file("writing", path))?;
            }
            return Ok(0);
        }
        let id = build::build(client, &wanted, show).await?;
        for output in &outputs {
            output.write(client, &id, &wanted.tags).await?;
        }
        if let Some(path) = iidfile {
            std::fs::write(&path, &id).map_err(Error::file("writing", path))?;
        }
        if is_pushed {
            push_all(client, &wanted.tags, show).await?;
        }
        if let Some(path) = metadata_file {
            let metadata = build::metadata(client, &id, &wanted.tags).await?;
            std::fs::write(&path, metadata).map_err(Error::file("writing", path))?;
        }
        // Standard output may be an archive's.
        if show == Show::Quiet && outputs.iter().all(|output| !output.is_on_stdout()) {
            print_line(&id)?;
        }
        Ok(0)
    }

    fn wanted(self) -> Result<Wanted> {
        Ok(Wanted {
            context: Context::parse(&self.context, self.file.as_deref())?,
            tags: self.tag,
            arguments: build::arguments(&self.build_arg),
            target: self.target,
            labels: labels(&self.label, &[])?,
            no_cache: self.no_cache,
            pull: self.pull,
            platform: self.platform.into_iter().next().unwrap_or_default(),
            limits: self.limits,
            is_passing: false,
            lent: Lent::parse(&self.secret, &self.ssh)?,
            caches: Caches::parse(&self.cache_from, &self.cache_to)?,
            attestations: build::attestations(
                self.provenance.as_deref(),
                self.sbom.as_deref(),
                &self.attest,
            ),
        })
    }
}

async fn push_all(client: &Client, names: &[String], show: Show) -> Result<()> {
    for name in names {
        push(client, push::call(name, false)?, show).await?;
    }
    Ok(())
}

async fn push(client: &Client, call: Call, show: Show) -> Result<()> {
    let answer = client.send(call).await?;
    let is_quiet = show == Show::Quiet;
    Progress::on_stderr().follow(answer, is_quiet).await
}
