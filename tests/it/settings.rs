//! Invalid settings, which every command refuses, as `serve` does.

use crate::harness::Setup;

/// Configurations whose last line has an invalid value: one for each setting that is a text with a meaning.
const WRONG: &[&str] = &[
    "auth.region = ''",
    "backups.container = '.hidden'",
    "backups.endpoint = 'http://s3.example.com'",
    "backups.level = 20",
    "backups.storage = 'tape'",
    "block.default_type = 'none-of-them'",
    "block.glance_url = 'http://user:secret@image.example.com'",
    "block.zones = []",
    "control.listen = 'localhost'",
    "control.public_url = 'ftp://control.example.com'",
    "cors.origins = ['*']",
    "digest.seal = 'sometimes'",
    "digest.sha256 = 'never'",
    "direct.listen = '127.0.0.1'",
    "direct.public_url = 'http://direct.example.com/'",
    "hpc_ai.regions = [{id = '', name = 'x'}]",
    "hpc_ai.volume_types = ['filesystem']",
    "io.direct = 'sometimes'",
    "io.engine = 'steam'",
    "keystone.user = 'u'\nkeystone.password = 'p'\nkeystone.url = 'git://identity.example.com'",
    "limits.max_drive = '1 MB'",
    "limits.idle_seconds = -1",
    "log.format = 'xml'",
    "log.level = 'longshore=loud'",
    "proxy.trusted = 'proxy.example.com'",
    "remote.networks = ['10.0.0.1/8']",
    "remote.schemes = ['ftp']",
    "remote.schemes = ['']",
    "trees.owners = 'nobody'",
];

#[test]
fn every_command_refuses_a_wrong_setting_in_the_words_of_serve_and_names_it() {
    for line in WRONG {
        let setup = || Setup::default().config(line);
        let (key, _) = line.lines().last().and_then(|line| line.split_once(" =")).expect("the line has a key");
        let served = setup().start_refused();
        let said = String::from_utf8_lossy(&served.stderr).into_owned();
        assert_eq!(served.status.code(), Some(1), "{line}: {said}");
        assert!(said.contains(key), "{line}: {said}");
        assert!(!said.contains("secret"), "a password is printed: {said}");
        for command in [&["doctor"][..], &["init"], &["user", "list"], &["backup", "import", "t"]] {
            let refused = setup().command_refused(command);
            assert_eq!(refused.status, served.status, "{line}: {command:?}");
            assert_eq!(String::from_utf8_lossy(&refused.stderr), said, "{line}: {command:?}");
        }
    }
}
