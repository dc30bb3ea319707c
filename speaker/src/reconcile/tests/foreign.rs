//! Others edit Herald's tables: undone at once, counted, and never a fight without pauses.

use super::*;

/// Elements are listed in the order of the kernel's hashes, several on a line.
fn words() -> Vec<String> {
    let listing = rules();
    let mut words: Vec<String> =
        listing.split([',', '\n', '{', '}']).map(|word| word.trim().to_owned()).collect();
    words.sort_unstable();
    words
}

/// The value of a metric without labels.
fn metric(lab: &Lab, name: &str) -> u64 {
    let text = lab.registry.encode().unwrap();
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line.trim().parse().unwrap()
}

#[test]
#[ignore = "needs a network namespace"]
fn whatever_others_do_to_the_tables_is_undone_within_a_second_and_counted() {
    in_namespace(|| async {
        addresses().await;
        let lab = Lab::start(Bird::start("")).await;
        lab.lists(vec![service("192.0.2.9")]).await;
        lab.routed("192.0.2.9").await;
        lab.say(Observed::Services(WatchEvent::Applied(service("192.0.2.1")))).await;
        lab.routed("192.0.2.1").await;
        eventually("the linger ends", || !rules().contains("192.0.2.9")).await;
        assert_eq!(metric(&lab, "herald_proxy_foreign_edits_total "), 0, "own changes are not foreign");
        let before = words();
        let edits = [
            "flush ruleset",
            "delete element ip herald vips { 192.0.2.1 }",
            "add rule ip herald guard drop",
            "delete table ip herald",
            "flush chain ip6 herald translate",
            "flush map ip herald endpoints",
            "add element ip6 herald vips { 2001:db8:1::7 }",
        ];
        for (repairs, edit) in (1..).zip(edits) {
            assert_eq!(output("nft", &[edit]), "");
            let edited = Instant::now();
            while metric(&lab, "herald_proxy_repairs_total ") < repairs {
                assert!(edited.elapsed() < Duration::from_secs(1), "{edit}: {}", rules());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            println!("{edit}: undone in {:.1?}", edited.elapsed());
            assert_eq!(words(), before, "{edit}");
        }
        assert_eq!(metric(&lab, "herald_proxy_repairs_total "), edits.len() as u64);
        assert!(metric(&lab, "herald_proxy_foreign_edits_total ") >= edits.len() as u64);
        // Other tables are others' business.
        let edits = metric(&lab, "herald_proxy_foreign_edits_total ");
        output("nft", &["add table ip other; add chain ip other herald; delete table ip other"]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(metric(&lab, "herald_proxy_foreign_edits_total "), edits);
        assert_eq!(metric(&lab, "herald_proxy_tables_contested "), 0);
        assert_eq!(lab.bird.established(), 1, "{}", lab.bird.log());
        lab.stop().await;
    });
}

#[test]
#[ignore = "needs a network namespace"]
fn who_edits_the_tables_without_end_is_answered_with_pauses() {
    in_namespace(|| async {
        addresses().await;
        let lab = Lab::start(Bird::start("")).await;
        lab.lists(vec![service("192.0.2.1")]).await;
        lab.routed("192.0.2.1").await;
        for _ in 0..60 {
            output("nft", &["flush map ip herald endpoints"]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(metric(&lab, "herald_proxy_tables_contested "), 1);
        assert_eq!(metric(&lab, "herald_proxy_repairs_total "), 10);
        // Services are programmed all the while.
        lab.say(Observed::Services(WatchEvent::Applied(service("192.0.2.2")))).await;
        lab.routed("192.0.2.2").await;
        lab.stop().await;
    });
}
