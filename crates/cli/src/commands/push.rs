//! `push`.

use clap::Args;

use super::Outcome;
use super::pull::{AUTH, parts};
use crate::daemon::{Call, Client, segment};
use crate::logins::{Login, Logins, server_of};
use crate::output::{Progress, print_line};

#[derive(Debug, Args)]
pub struct Push {
    /// Every tag of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Only the image's name, once it is there
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "IMAGE[:TAG]")]
    image: String,
}

impl Push {
    pub async fn run(self, client: &Client) -> Outcome {
        let (name, tag) = parts(&self.image);
        if !self.all_tags && !self.quiet && tag == "latest" && !self.image.ends_with(":latest") {
            print_line("Using default tag: latest")?;
        }
        let login = Logins::open()?.header_for(&self.image)?;
        // The API wants one from everybody, also from those who have none.
        let login = match login.as_str() {
            "" => Login::default().header(&server_of(&self.image)),
            _ => login,
        };
        let call = Call::post(format!("/images/{}/push", segment(name)))
            .given("tag", if self.all_tags { "" } else { tag })
            .header(AUTH, login);
        let answer = client.send(call).await?;
        Progress::on_stdout().follow(answer, self.quiet).await?;
        if self.quiet {
            print_line(&self.image)?;
        }
        Ok(0)
    }
}
