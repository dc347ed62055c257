use super::*;
use crate::config::Environment;

#[tokio::test(start_paused = true)]
async fn an_answer_is_waited_for_as_long_as_ilink_may_take() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "state_dir = {:?}\n[ilink]\nappkey = \"a\"\nsecretkey = \"s\"\nuid = \"414\"\ntimeout = \"2m\"\n\
         [callback]\npublic_url = \"https://x\"\n",
        dir.path(),
    );
    let config = Config::of_text("test", &text, &Environment::default()).unwrap();
    let listener = bind(dir.path()).unwrap();
    let daemon = tokio::spawn(async move {
        for minutes in [8, 2] {
            let (mut stream, _) = listener.accept().await.unwrap();
            BufReader::new(&mut stream).read_line(&mut String::new()).await.unwrap();
            tokio::time::sleep(Duration::from_mins(minutes)).await;
            let answer = serde_json::to_vec(&Answer { exit: 69, text: "iLink did not answer".to_owned() }).unwrap();
            // Whoever asked may have gone.
            let _ = stream.write_all(&answer).await;
        }
    });
    let call = Verb::Call { name: "ham_group/list".to_owned(), json: "{}".to_owned() };
    // The call, a renewal, its token and a repeat, each of which iLink leaves without an answer.
    assert_eq!(ask(&config, &call).await.unwrap().unwrap().exit, 69);
    let stuck = ask(&config, &Verb::CallbackUrl).await.unwrap_err();
    assert_eq!(stuck.kind(), io::ErrorKind::TimedOut);
    daemon.await.unwrap();
}
