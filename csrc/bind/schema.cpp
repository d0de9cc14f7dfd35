// Which schema table the bindings were compiled for: Python refuses a library of another one.
extern "C" __attribute__((visibility("default"))) const char* tapout_schema() {
  return TAPOUT_SCHEMA_HASH;
}
