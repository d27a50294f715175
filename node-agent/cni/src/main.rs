//! `cven-cni`: the last plugin in a node's list of CNI plugins. It lets a Pod start when the node agent has put the Pod's
//! policy into its network namespace.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use ringfence_cni::{Attachment, Entry, Request, Start, ask, decide};
use rscni_plugin::cni::{Cni, Plugin};
use rscni_plugin::error::Error;
use rscni_plugin::types::{Args, CNIResult};

/// A Pod that ends does not wait for the agent.
const GOODBYE: Duration = Duration::from_secs(1);
/// Code of our errors; below 100 are those of the specification.
const NOT_PROTECTED: u32 = 100;

struct Chained;

impl Cni for Chained {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        let Some(result) = args.config().prev_result.clone() else {
            let problem = "cven-cni makes no network: it has to come after the plugin that does";
            return Err(Error::InvalidNetworkConfig(problem.to_owned()));
        };
        let attachment = attachment(&args, &result);
        // What Kubernetes does not know has no policy.
        if attachment.namespace.is_empty() {
            return Ok(result);
        }
        let pod = format!("{}/{}", attachment.namespace, attachment.name);
        let answer = decide(&entry(&args)?, attachment);
        let problem = answer.problem.unwrap_or_default();
        match answer.start {
            Start::Allow => Ok(result),
            Start::Refuse => Err(Error::Custom(NOT_PROTECTED, format!("{pod} is not protected yet"), problem)),
        }
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        let Some(sandbox) = args.container_id() else { return Ok(()) };
        // Whatever the agent says or does not say: a Pod may always end.
        if let Ok(entry) = entry(&args) {
            let _ = ask(&entry.socket, &Request::Del { sandbox: sandbox.to_string() }, GOODBYE);
        }
        Ok(())
    }

    /// What is in force the agent looks after by itself.
    fn check(&self, _: Args) -> Result<(), Error> {
        Ok(())
    }

    /// Without the agent Pods start too, those of some namespaces.
    fn status(&self, _: Args) -> Result<(), Error> {
        Ok(())
    }

    fn gc(&self, _: Args) -> Result<(), Error> {
        Ok(())
    }
}

/// Our entry in the list, as the runtime hands it on.
fn entry(args: &Args) -> Result<Entry, Error> {
    let mut fields: serde_json::Map<String, serde_json::Value> = args.config().custom.clone().into_iter().collect();
    fields.insert("type".to_owned(), args.config().r#type.clone().into());
    serde_json::from_value(fields.into()).map_err(|error| Error::InvalidNetworkConfig(error.to_string()))
}

fn attachment(args: &Args, result: &CNIResult) -> Attachment {
    let said = pairs(args.args().unwrap_or_default());
    let of = |key: &str| said.get(key).copied().unwrap_or_default().to_owned();
    Attachment {
        sandbox: args.container_id().map(ToString::to_string).unwrap_or_default(),
        netns: args.netns().cloned().unwrap_or_default(),
        namespace: of("K8S_POD_NAMESPACE"),
        name: of("K8S_POD_NAME"),
        uid: of("K8S_POD_UID"),
        ips: result.ips.iter().map(|ip| ip.address.addr()).collect(),
        again: false,
    }
}

/// `KEY=VALUE;KEY=VALUE`.
fn pairs(text: &str) -> BTreeMap<&str, &str> {
    text.split(';').filter_map(|pair| pair.split_once('=')).collect()
}

fn main() -> ExitCode {
    let plugin = Plugin::default().msg(concat!("cven-cni ", env!("CARGO_PKG_VERSION")));
    // What went wrong is on standard output already, in the form that runtimes read.
    if plugin.run(&Chained).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_runtime_says_of_a_pod_is_understood() {
        let said = pairs("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=u=1;;odd");
        assert_eq!(said.get("K8S_POD_NAMESPACE"), Some(&"shop"));
        assert_eq!(said.get("K8S_POD_UID"), Some(&"u=1"));
        assert_eq!(said.len(), 4);
    }
}
