//! `push`.

use clap::Args;

use super::Outcome;
use super::pull::{AUTH, parts};
use crate::daemon::{Call, Client, segment};
use crate::error::Result;
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
        let (_, tag) = parts(&self.image);
        if !self.all_tags && !self.quiet && tag == "latest" && !self.image.ends_with(":latest") {
            print_line("Using default tag: latest")?;
        }
        let answer = client.send(call(&self.image, self.all_tags)?).await?;
        Progress::on_stdout().follow(answer, self.quiet).await?;
        if self.quiet {
            print_line(&self.image)?;
        }
        Ok(0)
    }
}

/// An index of images that have no names of their own, by platform and id.
pub fn index_call(image: &str, members: &[(String, String)]) -> Result<Call> {
    let call = call(image, false)?;
    let ids = members.iter().map(|(_, id)| id);
    Ok(ids.fold(call, |call, id| call.query("berth-images", id)))
}

pub fn call(image: &str, all_tags: bool) -> Result<Call> {
    let (name, tag) = parts(image);
    let login = Logins::open()?.header_for(image)?;
    // The API wants one from everybody, also from those who have none.
    let login = match login.as_str() {
        "" => Login::default().header(&server_of(image)),
        _ => login,
    };
    Ok(Call::post(format!("/images/{}/push", segment(name)))
        .given("tag", if all_tags { "" } else { tag })
        .header(AUTH, login))
}
