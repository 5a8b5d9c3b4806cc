//! Processors, from `/proc/cpuinfo`.

use std::collections::BTreeSet;

use p2v_contract::inventory::Cpu;

/// Reads `/proc/cpuinfo` (x86).
pub fn parse(cpuinfo: &str) -> Cpu {
    let mut cpu = Cpu::default();
    let mut sockets = BTreeSet::new();
    for line in cpuinfo.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match key.trim() {
            "processor" => cpu.threads += 1,
            "model name" if cpu.model.is_empty() => {
                cpu.model = value.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            "physical id" => {
                sockets.insert(value);
            }
            "flags" => cpu.long_mode |= value.split_whitespace().any(|flag| flag == "lm"),
            _ => {}
        }
    }
    // Old single-processor machines have no "physical id".
    cpu.sockets = sockets.len().max(1) as u32;
    cpu
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sockets_of_two_threads() {
        let one = |n: u32, socket: u32| {
            format!(
                "processor\t: {n}\nmodel name\t: Intel(R) Xeon(TM) CPU   3.00GHz\n\
                 physical id\t: {socket}\nflags\t\t: fpu lm sse2\n\n"
            )
        };
        let text = [one(0, 0), one(1, 3), one(2, 0), one(3, 3)].concat();
        let cpu = parse(&text);
        assert_eq!(cpu.model, "Intel(R) Xeon(TM) CPU 3.00GHz");
        assert_eq!((cpu.threads, cpu.sockets, cpu.long_mode), (4, 2, true));
    }

    #[test]
    fn an_old_machine_without_64_bits() {
        let cpu = parse("processor : 0\nmodel name : Pentium III\nflags : fpu slmx\n");
        assert_eq!((cpu.threads, cpu.sockets, cpu.long_mode), (1, 1, false));
    }
}
