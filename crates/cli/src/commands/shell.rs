//! What shells and clients elsewhere need: completions, manual pages, `dial-stdio`.

use std::path::PathBuf;

use clap::{Args, CommandFactory, ValueEnum};
use tokio::io::{AsyncWriteExt, copy};

use super::Outcome;
use crate::arguments::Arguments;
use crate::daemon::{Client, dial};
use crate::error::{Error, Result};
use crate::output::print;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Args)]
#[command(
    after_help = "bash: berth completion bash > /etc/bash_completion.d/berth\n\
    zsh:  berth completion zsh > ~/.zfunc/_berth\n\
    fish: berth completion fish > ~/.config/fish/completions/berth.fish"
)]
pub struct Completion {
    shell: Shell,
}

impl Completion {
    pub fn run(self) -> Outcome {
        let shell = match self.shell {
            Shell::Bash => clap_complete::Shell::Bash,
            Shell::Zsh => clap_complete::Shell::Zsh,
            Shell::Fish => clap_complete::Shell::Fish,
        };
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "berth", &mut text);
        print(&String::from_utf8_lossy(&text))?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub struct Man {
    /// Where they go, as in /usr/local/share/man/man1
    directory: PathBuf,
}

impl Man {
    /// One for each command: `berth.1`, `berth-run.1`, `berth-network-create.1`, …
    pub fn run(self) -> Outcome {
        let directory = &self.directory;
        std::fs::create_dir_all(directory).map_err(Error::file("making", directory))?;
        let mut command = Arguments::command();
        command.build();
        self.page(&command, "berth")?;
        Ok(0)
    }

    fn page(&self, command: &clap::Command, name: &str) -> Result<()> {
        let mut text = Vec::new();
        let path = self.directory.join(format!("{name}.1"));
        clap_mangen::Man::new(command.clone())
            .render(&mut text)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(Error::file("writing", &path))?;
        let inner = command
            .get_subcommands()
            .filter(|inner| !inner.is_hide_set());
        inner
            .filter(|inner| inner.get_name() != "help")
            .try_for_each(|inner| self.page(inner, &format!("{name}-{}", inner.get_name())))
    }
}

/// Until the daemon has said everything. The end of the input goes on to it.
pub async fn dial_stdio(client: &Client) -> Outcome {
    let endpoint = client.endpoint();
    let stream = dial(endpoint).await.map_err(|source| Error::Unreachable {
        endpoint: endpoint.to_string(),
        source,
    })?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    tokio::spawn(async move {
        // One that has gone takes no more.
        let _gone = copy(&mut tokio::io::stdin(), &mut writer).await;
        let _gone = writer.shutdown().await;
    });
    let mut out = tokio::io::stdout();
    let copied = copy(&mut reader, &mut out).await;
    copied.map_err(Error::Stream)?;
    out.flush().await.map_err(Error::Output)?;
    Ok(0)
}
