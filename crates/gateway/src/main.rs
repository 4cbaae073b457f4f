//! The program: command line in, exit code out.

use std::error::Error;
use std::io::{self, Write};
use std::net::TcpListener;
use std::process::ExitCode;

use futures_util::StreamExt;
use gateway::cli::{self, Request};
use gateway::config::{CliArgs, Config, ConfigError, ProcessEnv, Resolved};
use gateway::health;
use gateway::model_command::{self, Verdict};
use gateway::signals::stop_requests;
use gateway::{Listeners, spawn_detached};
use gateway::{similarity_command, status_command, telemetry};

/// Exit code of a command line or of settings that cannot work, as shells and clap have it.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let (request, args) = match cli::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version go to standard output with code 0, mistakes to standard error with code 2. If
            // neither can be written, no other place is left to report it.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match execute(request, args) {
        Ok(code) => code,
        Err(error) => {
            report(&*error);
            let is_usage = error.is::<ConfigError>()
                || matches!(error.downcast_ref(), Some(model_command::CommandError::Config(_)));
            if is_usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn execute(request: Request, args: CliArgs) -> Result<ExitCode, Box<dyn Error>> {
    let env = ProcessEnv::of_this_process()?;
    match request {
        Request::Serve => serve(args, env),
        Request::CheckConfig => {
            let Resolved { report, warnings, .. } = Config::resolve(&args, &env)?;
            for warning in warnings {
                writeln!(io::stderr(), "warning: {warning}")?;
            }
            write!(Stdout, "{report}")?;
            Ok(ExitCode::SUCCESS)
        }
        Request::Health => {
            let Resolved { config, .. } = Config::resolve(&args, &env)?;
            health::check(&config)?;
            writeln!(Stdout, "ready")?;
            Ok(ExitCode::SUCCESS)
        }
        Request::Status(options) => Ok(code(status_command::run(&options, &env, &mut Stdout)?)),
        Request::Similarity(options) => {
            let settings = (&args, &env);
            Ok(code(similarity_command::run(&options, settings, &mut io::stdin(), &mut Stdout)?))
        }
        Request::Model { action } => Ok(code(model_command::run(&action, &args, &env, &mut Stdout)?)),
    }
}

fn code(verdict: Verdict) -> ExitCode {
    match verdict {
        Verdict::Pass => ExitCode::SUCCESS,
        Verdict::Fail => ExitCode::FAILURE,
    }
}

fn serve(args: CliArgs, env: ProcessEnv) -> Result<ExitCode, Box<dyn Error>> {
    actix_web::rt::System::new().block_on(async {
        // Before any file is read: a file may be on a volume that does not answer, and the process 1 of a container
        // ignores signals that it does not catch.
        let mut stop = stop_requests()?;
        let prepared = spawn_detached("settings", move || prepare(&args, &env))?;
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
fn prepare(args: &CliArgs, env: &ProcessEnv) -> Result<(Config, Listeners), Box<dyn Error + Send + Sync>> {
    let Resolved { config, warnings, .. } = Config::resolve(args, env)?;
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

/// Standard output. A reader that closes it early (`| head -1`) is no error.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        ignore_broken_pipe(io::stdout().write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        ignore_broken_pipe(io::stdout().flush(), ())
    }
}

/// Returns the result `written`, or `all` if the pipe was closed.
fn ignore_broken_pipe<T>(written: io::Result<T>, all: T) -> io::Result<T> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(all),
        written => written,
    }
}

/// Prints an error and its causes.
fn report(error: &dyn Error) {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("\n  because: {error}"));
        cause = error.source();
    }
    // Without standard error, no other place is left to report it.
    let _ = writeln!(io::stderr(), "{text}");
}
