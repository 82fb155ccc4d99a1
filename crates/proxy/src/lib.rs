//! Other people's tools through our tunnel: a forward proxy, labelled HTTP service discovery, PushProx.
