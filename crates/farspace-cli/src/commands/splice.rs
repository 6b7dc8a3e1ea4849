pub(crate) fn run(_args: &crate::cli::SpliceArgs) -> anyhow::Result<()> {
    todo!()
}
