//! One end of a connection: the table `side` of the policy model.

use ringfence_model::verdict::Outcome;
use ringfence_model::{Action, Decision, EndState, Protocol};

use super::answer::{OtherRule, RuleRef, Side};
use super::ends::{End, Target};
use super::hits::Meets;
use super::nearest::{Asked, Party, Role};
use super::{Evaluator, Port};
use crate::compile::essentials::DNS_PORT;
use crate::compile::rule::ResolvedRule;
use crate::policy::{Kind, ObjectKey};

/// One end, judged.
pub struct Judged {
    /// The answer.
    pub side: Side,
    /// Why its decision is not known, when it is not.
    pub unknown: Option<String>,
}

impl Judged {
    /// What the end does with the connection.
    pub fn outcome(&self) -> Outcome {
        self.side.decision.outcome(self.side.state)
    }
}

impl Evaluator<'_> {
    /// The end that connects.
    pub(super) fn source_side(&self, source: &End<'_>, target: &Target<'_>) -> Judged {
        let asked = Asked {
            role: Role::Consumer,
            own: Party::own(source),
            peer: Party::target(target),
            port: target.port,
            front: target.front,
        };
        self.judge(
            source,
            &asked,
            || self.essential_out(source, target),
            |rule| match source.class.as_deref() {
                Some(class) => self.meets_out(rule, class, target),
                None => Meets::default(),
            },
        )
    }

    /// The end that listens.
    pub(super) fn destination_side(&self, end: &End<'_>, source: &End<'_>, port: Port) -> Judged {
        let asked = Asked { role: Role::Provider, own: Party::own(end), peer: Party::peer(source), port, front: None };
        self.judge(end, &asked, || self.essential_in(end, source, port), |rule| self.meets_in(rule, end, source, port))
    }

    fn judge(
        &self,
        end: &End<'_>,
        asked: &Asked<'_>,
        essential: impl Fn() -> bool,
        meets: impl Fn(&ResolvedRule) -> Meets,
    ) -> Judged {
        let (decision, hits) = match end.state {
            EndState::External => (Decision::External, Vec::new()),
            EndState::Unmanaged => (Decision::Unmanaged, Vec::new()),
            EndState::Idle => (Decision::Idle, Vec::new()),
            _ if essential() => (Decision::Essential, Vec::new()),
            _ => self.decide(&meets),
        };
        let nearest = (decision == Decision::Default).then(|| self.nearest(asked, &meets)).flatten();
        let side = Side {
            state: end.state,
            labels: end.labels.to_strings(),
            decision,
            rule: hits.first().map(|rule| self.reference(rule)),
            others: hits
                .iter()
                .skip(1)
                .map(|rule| OtherRule { rule: self.reference(rule), action: rule.action })
                .collect(),
            nearest,
        };
        let disputed = || "two workloads have the address, and which of them is meant is not known".to_owned();
        Judged { side, unknown: (!end.known).then(disputed) }
    }

    /// OverrideDeny before Allow before Deny before the state. Every rule that hits, the strongest first, and of equally
    /// strong ones the first by name.
    fn decide(&self, meets: &impl Fn(&ResolvedRule) -> Meets) -> (Decision, Vec<&ResolvedRule>) {
        let mut hits: Vec<&ResolvedRule> = self.world.rules().filter(|rule| meets(rule).hit).collect();
        hits.sort_by_key(|rule| strength(rule.action));
        // One rule may hit in several scopes of its RuleSet.
        hits.dedup_by(|a, b| (&a.rule_set, &a.name) == (&b.rule_set, &b.name));
        let decision = hits.first().map_or(Decision::Default, |rule| match rule.action {
            Action::OverrideDeny => Decision::OverrideDeny,
            Action::Allow => Decision::Allow,
            Action::Deny => Decision::Deny,
        });
        (decision, hits)
    }

    pub(super) fn reference(&self, rule: &ResolvedRule) -> RuleRef {
        let origin = self.world.policy.origins.get(&ObjectKey::cluster_wide(Kind::RuleSet, rule.rule_set.as_str()));
        RuleRef {
            rule_set: rule.rule_set.to_string(),
            name: rule.name.to_string(),
            file: origin.map(|origin| origin.file.clone()),
            line: origin.map(|origin| origin.rule_lines.get(rule.name.as_str()).copied().unwrap_or(origin.line)),
        }
    }

    /// Itself; discovery; and DNS, to the cluster's resolvers and those of its own dnsConfig. What it sends to a Service is judged
    /// by its front end, whoever is behind that: only afterwards a node decides whom it leads to.
    fn essential_out(&self, source: &End<'_>, target: &Target<'_>) -> bool {
        let Some((own, pod)) = source.pod else {
            return source.node.is_some_and(|node| self.host_essential_out(node, target));
        };
        let resolver = target
            .addresses
            .iter()
            .any(|address| self.essentials.dns_servers.contains(address) || pod.dns_servers.contains(address));
        let dns = matches!(target.port.protocol, Protocol::TCP | Protocol::UDP) && target.port.number == DNS_PORT;
        let itself = target.front.is_none() && target.pod == Some(own);
        itself || target.port.is_discovery() || (resolver && dns)
    }

    /// Itself; discovery; what probes and lifecycle hooks name, from its own node; DNS at its provider; the apiserver's
    /// calls.
    fn essential_in(&self, end: &End<'_>, source: &End<'_>, port: Port) -> bool {
        let Some((own, pod)) = end.pod else {
            return end.node.is_some_and(|node| self.host_essential_in(node, source, port));
        };
        let itself = source.pod.is_some_and(|(key, _)| key == own);
        let probed = source.node.is_some()
            && source.node == pod.node.as_deref()
            && pod.probe_ports.contains(&(port.protocol, port.number));
        let declared = self
            .essentials
            .inbound
            .iter()
            .any(|essential| essential.covers(&own.namespace, pod, &source.addresses, port.protocol, port.number));
        itself || port.is_discovery() || probed || declared
    }
}

/// The precedence of the policy model, the strongest first.
fn strength(action: Action) -> u8 {
    match action {
        Action::OverrideDeny => 0,
        Action::Allow => 1,
        Action::Deny => 2,
    }
}
