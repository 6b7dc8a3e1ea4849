// A library that the specimen loads at run time: code, a global and a thread-local variable of its own.
__thread int plugin_tls = 7;
int plugin_global = 1001;

int *plugin_thread_local(void) { return &plugin_tls; }
