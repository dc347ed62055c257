use super::*;

const LANGUAGES: [Language; 2] = [Language::English, Language::Chinese];
const SINCE: Option<&str> = Some("2026-01-02T18:13:05.678Z");

fn facts(n: u64, loses: bool) -> Facts {
    Facts { pushes: n, held: n, commands: n, kept: n, loses, registered: true }
}

fn read(condition: Condition, since: Option<&str>, language: Language) -> String {
    text(cause(condition, since, true, language))
}

/// As it is read, without its markup.
fn text(html: Markup) -> String {
    html.into_string().split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text)).collect()
}

#[test]
fn whatever_is_wrong_has_a_whole_sentence_in_each_language() {
    for condition in Condition::ALL {
        let told = sentence(*condition);
        assert_eq!(told.is_none(), condition.weight() == Weight::Advice, "{condition:?}");
        let Some(Sentence { meaning: [english, chinese], .. }) = told else { continue };
        for language in LANGUAGES {
            let is_chinese = |text: &str| text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
            for since in [SINCE, None] {
                let told = read(*condition, since, language);
                assert_eq!(is_chinese(&told), language == Language::Chinese, "{condition:?}: {told}");
                assert!(!told.contains(['{', '}']) && !told.contains("  ") && told.trim() == told, "{told:?}");
            }
            for n in [0, 1, 2] {
                let meaning = facts(n, false).filled(language.say(english, chinese), language);
                assert_eq!(is_chinese(&meaning), language == Language::Chinese, "{condition:?}: {meaning}");
                assert!(!meaning.is_empty() && !meaning.contains(['{', '}']), "{condition:?}: {meaning}");
            }
        }
    }
}

#[test]
fn the_sentences_read_well() {
    let english = |condition| read(condition, SINCE, Language::English);
    assert_eq!(english(Condition::BrokerUnreachable), "The broker is unreachable since 2026-01-02 18:13 UTC");
    assert_eq!(english(Condition::IlinkUnreachable), "iLink is unreachable since 2026-01-02 18:13 UTC");
    let chinese = |condition, since| read(condition, since, Language::Chinese);
    assert_eq!(chinese(Condition::BrokerUnreachable, SINCE), "自 2026-01-02 18:13 UTC 起连不上 broker");
    assert_eq!(chinese(Condition::BrokerTurnsAway, SINCE), "自 2026-01-02 18:13 UTC 起 broker 拒绝网桥的连接");
    assert_eq!(chinese(Condition::BrokerTurnsAway, None), "broker 拒绝网桥的连接");
}

#[test]
fn what_waits_is_not_lost_unless_it_may_be() {
    let [english, chinese] = LANGUAGES;
    for (n, loses, language, told) in [
        (5, false, english, "5 messages wait, none is lost"),
        (1, false, english, "1 message waits, none is lost"),
        (0, false, english, "no message waits, none is lost"),
        (5, true, english, "5 messages wait"),
        (5, false, chinese, "5 条消息在等待，没有丢失"),
        (0, true, chinese, "没有消息在等待"),
    ] {
        assert_eq!(facts(n, loses).filled("{pushes}", language), told);
    }
    assert_eq!(commands(1, english), "1 command waits until it is sent or expires");
    assert_eq!(kept(3, chinese), "3 条消息已搁置，可以重新发送");
}

#[test]
fn several_things_at_once_are_one_sentence() {
    let problem = |condition, hour: u8| Problem {
        grave: true,
        part: String::new(),
        cause: String::new(),
        since: Some(format!("2026-01-02T{hour}:13:05Z")),
        condition,
    };
    let told = |problems: &[Problem], registered, language| {
        let told: Vec<&Problem> = problems.iter().collect();
        let loses = told.iter().any(|problem| loses(problem.condition));
        let said = text(headline(&told, &Facts { registered, ..facts(2, loses) }, language));
        said.replace("2026-01-02 ", "").replace(" UTC", "")
    };
    let [english, chinese] = LANGUAGES;
    let two = [problem(Condition::BrokerUnreachable, 18), problem(Condition::IlinkRefuses, 17)];
    assert_eq!(
        told(&two, true, english),
        "The broker is unreachable since 18:13, and iLink refuses the bridge since 17:13; 2 messages wait, none is lost; \
         2 commands wait until they are sent or expire"
    );
    assert_eq!(
        told(&two, false, chinese),
        "自 18:13 起连不上 broker，自 17:13 起 iLink 拒绝网桥；2 条消息在等待，没有丢失；2 条命令在等待，直到发出或过期；\
         收不到来自 iLink 的消息"
    );
    // The same twice is told once, since it began; what is lost is not said to be safe.
    let refused = [18, 17].map(|hour| problem(Condition::PublishesRefused, hour));
    assert_eq!(
        told(&refused, true, english),
        "The broker refuses publishes for good since 17:13; 2 messages are set aside and can be sent again"
    );
    let many =
        [Condition::BrokerUnreachable, Condition::InboundFull, Condition::StoreRefuses, Condition::IlinkDegraded];
    let said = told(&many.map(|condition| problem(condition, 18)), true, english);
    assert!(
        said.contains(", nothing can be stored since 18:13, and 1 more; 2 messages wait; new messages are"),
        "{said}"
    );
    assert_eq!(said.matches("not accepted").count(), 1, "{said}");
}
