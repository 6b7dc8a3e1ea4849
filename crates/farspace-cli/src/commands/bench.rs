pub(crate) fn run(_args: &crate::cli::BenchArgs) -> anyhow::Result<()> {
    todo!()
}
