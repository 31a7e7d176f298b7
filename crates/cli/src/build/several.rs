//! One image of several platforms: a build for each, one after the other, so that what they have in
//! common is built once.

use super::{Context, Output, Show, Wanted, build};
use crate::daemon::Client;
use crate::error::{Error, Result};
use crate::output::note;

/// Platforms, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Several(Vec<String>);

impl Several {
    /// `None` of one platform, or of none.
    pub fn of(platforms: &[String]) -> Result<Option<Self>> {
        let mut all: Vec<String> = Vec::new();
        for platform in platforms {
            if platform.is_empty() {
                return Err(Error::usage(
                    "--platform has an empty name: write linux/amd64,linux/arm64",
                ));
            }
            if !all.contains(platform) {
                all.push(platform.clone());
            }
        }
        Ok((all.len() > 1).then_some(Self(all)))
    }

    /// # Errors
    /// If there is nowhere that such an image could go.
    pub fn check(&self, outputs: &[Output], is_pushed: bool, has_id: bool) -> Result<()> {
        if has_id {
            return Err(Error::usage(
                "--iidfile: an image of several platforms has no id; --metadata-file has the \
                 digest of what was pushed",
            ));
        }
        if !is_pushed && outputs.iter().all(Output::is_image) {
            return Err(Error::usage(format!(
                "an image of {} cannot be kept here, where each image is of one platform: --push \
                 it, or write it with -o type=oci,dest=FILE",
                self.0.join(" and ")
            )));
        }
        outputs.iter().try_for_each(Output::check_several)
    }

    /// The image of each platform, by its id. None of them has a name.
    pub async fn build(
        self,
        client: &Client,
        mut wanted: Wanted,
        show: Show,
    ) -> Result<Vec<(String, String)>> {
        if matches!(wanted.context, Context::Input { .. }) {
            return Err(Error::usage(
                "standard input is read once: for several platforms the context has to be a \
                 directory or an address",
            ));
        }
        wanted.tags.clear();
        wanted.is_passing = true;
        let mut built = Vec::new();
        for platform in self.0 {
            if show != Show::Quiet && show != Show::Rawjson {
                note(&format!("Building for {platform}"));
            }
            wanted.platform.clone_from(&platform);
            let id = build(client, &wanted, show).await?;
            built.push((platform, id));
        }
        Ok(built)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn several(platforms: &[&str]) -> Result<Option<Several>> {
        let platforms: Vec<String> = platforms.iter().map(|one| (*one).to_owned()).collect();
        Several::of(&platforms)
    }

    #[test]
    fn several_platforms_need_somewhere_to_go() {
        assert_eq!(several(&[]).unwrap(), None);
        assert_eq!(several(&["linux/arm64", "linux/arm64"]).unwrap(), None);
        assert!(several(&["linux/arm64", ""]).is_err());
        let both = several(&["linux/arm64", "linux/amd64"]).unwrap().unwrap();
        let check = |output: &str, is_pushed| {
            let outputs: Vec<Output> = match output {
                "" => Vec::new(),
                text => vec![Output::parse(text).unwrap()],
            };
            both.check(&outputs, is_pushed, false)
        };
        for output in [
            "",
            "type=image",
            "type=docker",
            "type=docker,dest=f",
            "type=tar,dest=f",
        ] {
            assert!(check(output, false).is_err(), "{output}");
        }
        for output in ["type=oci,dest=f", "out", "type=oci,tar=false,dest=d"] {
            check(output, false).unwrap();
        }
        check("", true).unwrap();
        assert!(both.check(&[], true, true).is_err());
    }
}
