//! What the counters are called on the status page.

use std::borrow::Cow;

use super::language::Language;

/// A counter's name for people. In English the words of its name say it.
pub(super) fn name_of(name: &'static str, language: Language) -> Cow<'static, str> {
    let chinese = if language == Language::Chinese { in_chinese(name) } else { None };
    chinese.map_or_else(|| name.replace('_', " ").into(), Cow::Borrowed)
}

#[rustfmt::skip]
fn in_chinese(name: &str) -> Option<&'static str> {
    Some(match name {
        "pushes_stored" => "已保存的推送",
        "pushes_repeated" => "重复的推送",
        "pushes_unstored" => "未能保存的推送",
        "pushes_for_other_uid" => "发给其他 uid 的推送",
        "handshakes_answered" => "已应答的握手",
        "pushes_delivered" => "已送达的推送",
        "pushes_set_aside" => "被搁置的推送",
        "pushes_late" => "太迟的推送",
        "pushes_not_allowed" => "发送方不被允许的推送",
        "presence_stale" => "过时的在线状态",
        "publishes_set_aside" => "被搁置的发布",
        "set_aside_retried" => "重新发送的被搁置消息",
        "set_aside_unsent" => "重新发送时对路由来说太旧的消息",
        "set_aside_dropped" => "因空间不足而丢弃的被搁置消息",
        "commands_stored" => "已保存的命令",
        "commands_redelivered" => "broker 重发的命令",
        "commands_rejected" => "被拒绝的命令",
        "commands_ok" => "成功的命令",
        "commands_error" => "失败的命令",
        "commands_expired" => "过期的命令",
        "commands_uncertain" => "结果不明的命令",
        "commands_dropped" => "来不及接收而丢弃的 QoS 0 命令",
        "calls" => "对 iLink 的调用",
        "calls_repeated" => "重复的调用",
        "response_topics_ignored" => "被忽略的响应主题",
        "broker_connects" => "连接 broker 的次数",
        "broker_failures" => "broker 连接失败或中断的次数",
        "broker_sessions_lost" => "broker 丢失会话的次数",
        "publishes_acked" => "broker 已确认的发布",
        "publishes_for_now" => "broker 暂时拒收的发布",
        "publishes_no_subscribers" => "没有订阅者的发布",
        "spool_damaged_rows" => "磁盘损坏的记录",
        // Of routes.
        "fired" => "触发",
        "no_match" => "内容不匹配",
        "missing" => "缺少所需的值",
        "late" => "太迟",
        "retained" => "保留消息",
        "not_crossed" => "未越过界限",
        "lasting" => "等待持续时间",
        "unchanged" => "没有变化",
        "too_soon" => "间隔太短",
        "over_rate" => "超过频率上限",
        "superseded" => "被更新的消息取代",
        "failed" => "失败",
        // Why the callback turns a request away, or leaves a push unanswered.
        "address" => "地址不在允许范围内",
        "path" => "路径不对",
        "method" => "方法不对",
        "parameters" => "缺少参数",
        "signature" => "签名错误",
        "size" => "太大",
        "json" => "不是 JSON 对象（仍会保存）",
        "slow" => "太慢",
        "malformed" => "不合 HTTP 或 TLS",
        "crowded" => "为其他连接让位",
        "uid" => "uid 不是本网桥的",
        "full" => "队列已满",
        "overload" => "等待的太多",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::routing::RouteCounters;
    use crate::observe::counters::Counters;

    #[test]
    fn whatever_is_counted_has_a_name_in_chinese() {
        let counted = Counters::default().all().into_iter().map(|(name, _)| name);
        let others = ["callback_rejected_", "pushes_unanswered_"];
        let short = |name: &'static str| others.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        let of_routes = RouteCounters::default().all().into_keys();
        for name in counted.map(short).chain(of_routes) {
            assert!(in_chinese(name).is_some(), "{name}");
        }
        assert_eq!(name_of("pushes_stored", Language::English), "pushes stored");
        assert_eq!(name_of("pushes_stored", Language::Chinese), "已保存的推送");
    }
}
