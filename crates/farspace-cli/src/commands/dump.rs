pub(crate) fn run(_args: &crate::cli::DumpArgs) -> anyhow::Result<()> {
    todo!()
}
