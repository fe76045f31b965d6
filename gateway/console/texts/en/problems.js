export default {
  unreachable: "The server does not answer.",
  rate_limited: "Too many requests at once. Wait a moment, and try again.",
  busy: "The server is busy. Wait a moment, and try again.",
  storage_full: "The server's disk is full: it takes nothing new.",
  internal_error: "Something went wrong in the server. Its log says more.",
};
