//! The program: command line in, exit code out.

use std::error::Error;
use std::io::{self, Write};
use std::net::TcpListener;
use std::process::ExitCode;

use futures_util::StreamExt;
use gateway::cli::{self, Request};
use gateway::config::{Config, ConfigError, Flags, Resolved, Surroundings};
use gateway::health;
use gateway::model_command::{self, Verdict};
use gateway::signals::stop_requests;
use gateway::telemetry;
use gateway::{Listeners, spawn_detached};

/// Exit code of a command line or of settings that cannot work, as shells and clap have it.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let request = match cli::parse(std::env::args_os()) {
        Ok(request) => request,
        Err(error) => {
            // Help and version go to standard output with code 0, mistakes to standard error with code 2. If
            // neither can be written, there is nowhere left to say so.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match carry_out(request) {
        Ok(code) => code,
        Err(error) => {
            report(&*error);
            let usage = error.is::<ConfigError>()
                || matches!(error.downcast_ref(), Some(model_command::CommandError::Config(_)));
            if usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn carry_out(request: Request) -> Result<ExitCode, Box<dyn Error>> {
    let surroundings = Surroundings::of_this_process()?;
    match request {
        Request::Serve(flags) => serve(flags, surroundings),
        Request::CheckConfig(flags) => {
            let Resolved { report, warnings, .. } = Config::resolve(&flags, &surroundings)?;
            for warning in warnings {
                writeln!(io::stderr(), "warning: {warning}")?;
            }
            write!(Output, "{report}")?;
            Ok(ExitCode::SUCCESS)
        }
        Request::Health(flags) => {
            let Resolved { config, .. } = Config::resolve(&flags, &surroundings)?;
            health::check(&config)?;
            writeln!(Output, "ready")?;
            Ok(ExitCode::SUCCESS)
        }
        Request::Model(action) => match model_command::run(&action, &surroundings, &mut Output)? {
            Verdict::Pass => Ok(ExitCode::SUCCESS),
            Verdict::Fail => Ok(ExitCode::FAILURE),
        },
    }
}

fn serve(flags: Flags, surroundings: Surroundings) -> Result<ExitCode, Box<dyn Error>> {
    actix_web::rt::System::new().block_on(async {
        // Before any file is read: a file may be on a volume that does not answer, and the process 1 of a container
        // ignores signals that it does not catch.
        let mut stop = stop_requests()?;
        let prepared = spawn_detached("settings", move || prepare(&flags, &surroundings))?;
        let prepared = tokio::select! {
            prepared = prepared => prepared.map_err(|_| "reading the settings panicked")?,
            _ = stop.next() => {
                writeln!(io::stderr(), "stopped while reading the settings")?;
                return Ok(ExitCode::SUCCESS);
            }
        };
        let (config, listeners) = prepared.map_err(|error| error as Box<dyn Error>)?;
        let ended = gateway::run(config, listeners, stop).await;
        if let Err(error) = &ended
            && error.leaves_threads()
        {
            report(error);
            // Without destructors and exit handlers: they need a lock that a thread holds if it hangs in loading a
            // library.
            signal_hook::low_level::exit(1);
        }
        ended?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Reads the settings, starts the log and binds the listeners.
fn prepare(
    flags: &Flags,
    surroundings: &Surroundings,
) -> Result<(Config, Listeners), Box<dyn Error + Send + Sync>> {
    let Resolved { config, warnings, .. } = Config::resolve(flags, surroundings)?;
    telemetry::init(&config.log)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let listen = |address, flag| {
        TcpListener::bind(address)
            .map_err(|source| format!("cannot listen on {address}: {source}; choose another with {flag}"))
    };
    let main = listen(config.listen, "--listen")?;
    let ops = config.ops_listen.map(|address| listen(address, "--ops-listen")).transpose()?;
    Ok((config, Listeners { main, ops }))
}

/// Standard output, until its reader has seen enough (`| head -1`): the rest is nobody's, and no error.
struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unless_closed(io::stdout().write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        unless_closed(io::stdout().flush(), ())
    }
}

/// `written`, or `all` where nobody reads any more.
fn unless_closed<T>(written: io::Result<T>, all: T) -> io::Result<T> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(all),
        written => written,
    }
}

/// Prints an error and everything beneath it.
fn report(error: &dyn Error) {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("\n  because: {error}"));
        cause = error.source();
    }
    // When standard error is gone, there is nowhere left to say so.
    let _ = writeln!(io::stderr(), "{text}");
}
