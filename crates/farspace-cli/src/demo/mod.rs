pub mod target {
    pub(crate) fn run(_args: &crate::cli::TargetArgs) -> anyhow::Result<()> {
        todo!()
    }
}
