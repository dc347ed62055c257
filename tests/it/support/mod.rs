//! What the tests share: real brokers, proxies that cut, processes that end with their test.
