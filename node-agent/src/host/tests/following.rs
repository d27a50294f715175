//! What is wanted is followed, and what somebody takes away is put back.

use super::*;

/// As a firewall's reload does, or somebody who flushes tables.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_takes_away_from_a_node_is_put_back() {
    let Some(scene) = Scene::new("what_somebody_takes_away_from_a_node_is_put_back") else { return };
    let (want, wanted_in) = watch::channel(wanted(good()));
    let (said_out, mut said) = watch::channel(Said::default());
    let running = tokio::spawn(follow(scene.keeper(), wanted_in, said_out));
    heard(&mut said, |said| said.state == State::InForce && said.problem.is_none()).await;
    let before = scene.rules_without_generation();

    for damage in ["-F RF-HOST-IN", "-D INPUT -j RF-HOST-IN", "-I RF-HOST-IN -j RETURN", "-F"] {
        let words: Vec<&str> = ["-t", "mangle"].into_iter().chain(damage.split(' ')).collect();
        scene.node.exec("iptables-nft", &words, "");
        heard(&mut said, |said| said.problem.as_deref() == Some(PUT_BACK)).await;
        heard(&mut said, |said| said.problem.is_none()).await;
        assert_eq!(scene.rules_without_generation(), before, "{damage}");
        assert!(scene.reaches(22) && !scene.reaches(8080), "{damage}");
    }
    let sets = scene.sets_of_ours();
    let [set] = sets.as_slice() else { panic!("the apiserver is in one set: {sets:?}") };
    scene.node.exec("ipset", &["flush", set], "");
    heard(&mut said, |said| said.problem.as_deref() == Some(PUT_BACK)).await;
    heard(&mut said, |said| said.problem.is_none()).await;
    assert!(scene.node.exec("ipset", &["list", set], "").contains(OTHER));

    // Nothing is there that could be put back.
    want.send(Wanted::Nothing).expect("it listens");
    heard(&mut said, |said| said.state == State::Nothing).await;
    drop(want);
    running.await.expect("it ends");
    assert!(!scene.holds_ours(), "{}", scene.node.holds());
}

/// A look that is due when something else comes to be wanted takes nothing for granted.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_while_a_look_is_due_is_brought_about() {
    let Some(scene) = Scene::new("what_is_wanted_while_a_look_is_due_is_brought_about") else { return };
    let (want, wanted_in) = watch::channel(Wanted::Nothing);
    let (said_out, mut said) = watch::channel(Said::default());
    let mut keeper = scene.keeper();
    keeper.patience.look = Duration::ZERO;
    let running = tokio::spawn(follow(keeper, wanted_in, said_out));
    for _ in 0..20 {
        for (wants, state) in [(wanted(good()), State::InForce), (Wanted::Nothing, State::Nothing)] {
            want.send(wants.clone()).expect("it listens");
            heard(&mut said, |said| said.to == wants).await;
            assert_eq!((said.borrow().state, scene.holds_ours()), (state, state == State::InForce));
        }
    }
    drop(want);
    running.await.expect("it ends");
}

/// Waits until it is said.
async fn heard(said: &mut watch::Receiver<Said>, what: impl FnMut(&Said) -> bool) {
    let heard = tokio::time::timeout(Duration::from_secs(20), said.wait_for(what)).await;
    drop(heard.expect("it is said in time").expect("somebody says it"));
}
